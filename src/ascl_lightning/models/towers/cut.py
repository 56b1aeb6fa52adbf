"""Parts of a backbone that is cut in two: frozen layers below the cut, and trained layers above it."""

from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ascl_lightning.data.batch import Features


def without_parts(module: nn.Module, names: Sequence[str], in_tuples: bool = False) -> nn.Module:
    """A module that shares everything with another one, but whose named parts return the activations they are given.

    Args:
        module: The original; not changed.
        names: Names of parts in the module, such as `encoder.layer.3`.
        in_tuples: The parts return the activations as the only element of a tuple, as some layers do.
    """
    twin = copy(module)
    twin._modules = dict(module._modules)
    for path in names:
        name, _, rest = path.partition(".")
        part = twin.get_submodule(name)
        twin._modules[name] = without_parts(part, [rest], in_tuples) if rest else _idle(part, in_tuples)
    return twin


def _idle(part: nn.Module, in_tuple: bool) -> nn.Module:
    """A part without weights that has the attributes of another one, which some models read."""
    twin = copy(part)
    twin._modules, twin._parameters, twin._buffers = {}, {}, {}
    # not a closure, which could not be pickled
    twin.forward = partial(_pass_on, in_tuple)
    return twin


def _pass_on(in_tuple: bool, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
    """The first floating-point tensor among the arguments."""
    given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.is_floating_point())
    activations = next(given)
    return (activations,) if in_tuple else activations


def from_part_on(module: nn.Module, name: str) -> list[str]:
    """Names of a part of a module and of all parts after it, in their order.

    Args:
        module: A module, whose parts are called in the order in which they were added.
        name: Name of a part (`conv_head`), or of an element of a `Sequential` or `ModuleList` in it (`blocks.5`).

    Raises:
        KeyError: If there is no such part.
    """
    found: list[str] = []
    prefix = ""
    for part in name.split("."):
        names = [each for each, child in module.named_children() if child is not None]
        if part not in names or (prefix and not isinstance(module, nn.Sequential | nn.ModuleList)):
            raise KeyError(name)
        found = [f"{prefix}{later}" for later in names[names.index(part) + 1 :]] + found
        prefix = f"{prefix}{part}."
        module = module.get_submodule(part)
    return [name, *found]


def largest_parts_outside(module: nn.Module, names: Sequence[str], prefix: str = "") -> Iterator[nn.Module]:
    """The largest submodules that neither are nor contain one of the named ones."""
    for name, child in module.named_children():
        path = prefix + name
        if path in names:
            continue
        if any(other.startswith(f"{path}.") for other in names):
            yield from largest_parts_outside(child, names, f"{path}.")
        else:
            yield child


def is_within(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter, buffer or module belongs to one of the named parts.

    Examples:
        >>> is_within("blocks.5.conv.weight", ["blocks.5"]), is_within("blocks.50.conv.weight", ["blocks.5"])
        (True, False)
    """
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def same_features(one: Features, other: Features) -> bool:
    """Whether two towers computed the same, up to rounding."""
    pairs = (one.pooled, other.pooled), (one.tokens, other.tokens)
    return all(left.shape == right.shape and torch.allclose(left, right, 1e-3, 1e-4) for left, right in pairs)
