"""What image and text towers share: freezing, resting and tuning."""

import hashlib
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from inspect import Signature, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.cut import is_within, largest_parts_outside
from ascl_lightning.models.towers.tuning import Tuning, add_adapters


class _TunedWhenBuilt(ABCMeta):
    """Applies a tower's tuning when the constructors of all its classes have returned.

    No constructor of a base class can do it: adapters and freezing need the layers that the subclass builds last.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        tower = super().__call__(*args, **kwargs)
        tower._tune()
        return tower

    @property
    def __signature__(cls) -> Signature:
        """The constructor's signature for `help`: `__call__` would hide it."""
        constructor = signature(cls.__init__)  # type: ignore[misc]
        return constructor.replace(parameters=[*constructor.parameters.values()][1:])


class Encoder(nn.Module, metaclass=_TunedWhenBuilt):
    """A tower: returns one global vector and local tokens for each input.

    The constructor of a subclass calls `super().__init__()`, builds the layers, and sets `spec`, `pooled_dim` and
    `token_dim`.

    A tower with a `cut` is frozen below it: these layers require no gradient, compute no graph and stay in evaluation
    mode. The layers above are trained; their batch normalisation keeps its statistics. What enters the cut can be
    stored, and `forward` takes it instead of inputs. A subclass that can be cut sets `cut` and `above` and implements
    `_below` and `_above`.

    Args:
        tuning: How the tower is trained.
    """

    pooled_dim: int
    """Width P of the global vector."""
    token_dim: int
    """Width T of the tokens."""
    joined_widths: Sequence[int] = ()
    """Widths of the vectors of inner layers, if any, at the end of the global vector and of each token."""
    pretrained: bool = False
    """Whether its weights are pretrained."""
    cut: str | None = None
    """Name of the layer that the stored activations enter; None for a tower that is not cut."""
    above: Sequence[str] = ()
    """Names of the modules above the cut, in the tower."""
    stored_settings: str = ""
    """Settings that change what `to_store` returns with the same weights and `spec`; empty for the default ones."""

    def __init__(self, tuning: Tuning = Tuning()) -> None:
        super().__init__()
        self.tuning = tuning
        self.resting = False

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> Any:
        """The `spec` of a tower with these arguments. Pretrained towers find it without loading weights.

        Args:
            arguments: All arguments of the constructor, by name.

        Raises:
            UserError: If the files that describe the tower are missing.
        """
        return cls(**arguments).spec

    def save_settings(self, folder: Path) -> None:
        """Writes the files, other than weights, from which the tower can be rebuilt; most towers need none.

        Args:
            folder: Where to write; the argument `path` of a rebuilt tower.

        Raises:
            UserError: If the source of the tower no longer exists.
        """

    def forward(self, inputs: Any) -> Features:
        """Unprojected features: pooled (B, P), tokens (B, K, T) and their mask (B, K).

        Args:
            inputs: As `spec` says; or, for a tower with a cut, what `to_store` returned for them.
        """
        with_graph = torch.is_grad_enabled()
        if self.cut is not None and not isinstance(inputs, Features):
            inputs = self.to_store(inputs)
        with torch.set_grad_enabled(with_graph and not (self.tuning.frozen or self.resting)):
            features = self._encode(inputs) if self.cut is None else self._above(inputs)
        return self._with_zero_gradients(features) if self.resting and with_graph else features

    @property
    def is_storable(self) -> bool:
        """Whether `to_store` returns the same for the whole training."""
        return self.tuning.frozen or self.cut is not None

    @torch.no_grad()
    def to_store(self, inputs: Any) -> Features:
        """What feature tables hold: what enters the cut, (B, 0) and (B, K, C), or the tower's features without one."""
        return self(inputs) if self.cut is None else self._below(inputs)

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`; a frozen or resting tower, and what is below a cut, stay in evaluation mode."""
        super().train(mode and not (self.tuning.frozen or self.resting))
        if self.cut is not None:
            for part in largest_parts_outside(self, self.above):
                part.eval()
            for part in self.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self

    def rest(self, resting: bool) -> None:
        """Suspends or resumes the training of the tower.

        A resting tower is in evaluation mode and computes no gradients. Its parameters still require them and get
        zeros: distributed training waits for a gradient of every parameter that required one at setup.
        """
        if resting != self.resting:
            self.resting = resting
            self.train()

    def layer_numbers(self) -> dict[str, int]:
        """Number of the layer of each parameter, by parameter name; 0 is nearest to the input.

        Raises:
            UserError: If the tower does not number its layers.
        """
        raise UserError(f"{type(self).__name__} does not number its layers: set layer_decay to 1")

    def without_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: norms, biases, single vectors, positions."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or "bias" in name or "position" in name
        }

    @abstractmethod
    def _encode(self, inputs: Any) -> Features:
        """Computes the features that `forward` returns."""

    def _below(self, inputs: Any) -> Features:
        """Activations that enter the cut, as tokens; `pooled` has width 0."""
        raise UserError(f"{type(self).__name__} cannot be cut")

    def _above(self, activations: Features) -> Features:
        """The features of activations that `_below` returned."""
        raise UserError(f"{type(self).__name__} cannot be cut")

    def _checkpoint_activations(self) -> None:
        """Switches activation checkpointing on."""
        raise UserError(f"{type(self).__name__} cannot recompute activations: set checkpointing to false")

    def _tune(self) -> None:
        if self.tuning.checkpointing:
            self._checkpoint_activations()
        if self.tuning.lora is not None:
            add_adapters(self, self.tuning.lora, self.above)
        if self.tuning.frozen:
            self.requires_grad_(False)
        if self.cut is not None:
            for name, parameter in self.named_parameters():
                if not is_within(name, self.above):
                    parameter.requires_grad_(False)
        # pretrained models are loaded in evaluation mode, and Lightning does not change modes
        self.train()

    def _with_zero_gradients(self, features: Features) -> Features:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        pooled, tokens = _ZeroGradients.apply(features.pooled, features.tokens, *parameters)
        return Features(pooled, tokens, features.mask)


def hash_of_weights(module: nn.Module, settings: str, without: Sequence[str] = ()) -> str:
    """Hash of a module's parameters, buffers and settings.

    Args:
        module: The module.
        settings: Distinguish modules with equal weights.
        without: Names of parts whose weights are left out.
    """
    digest = hashlib.sha256(settings.encode())
    for name, value in module.state_dict().items():
        if is_within(name, without):
            continue
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _ZeroGradients(torch.autograd.Function):
    """Returns two tensors unchanged, and gives parameters that they do not depend on a gradient of zeros."""

    @staticmethod
    def forward(ctx: FunctionCtx, pooled: Tensor, tokens: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*parameters)
        return pooled.view_as(pooled), tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *map(torch.zeros_like, ctx.saved_tensors)
