"""Optimizer parameter groups: trained parameters with their learning rate and weight decay."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.towers.base import Encoder

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def build_optimizer(factory: OptimizerFactory, model: ImageTextModel, loss: nn.Module) -> Optimizer:
    """Builds an optimizer over all trainable parameters.

    Args:
        factory: Called with the groups of `parameter_groups`; its learning rate and weight decay are the defaults of
            the groups.
        model: Towers, projections and similarity.
        loss: Has a parameter if its temperature is learned.
    """
    optimizer = factory(parameter_groups(model, loss))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group["lr_scale"]
    return optimizer


def parameter_groups(model: ImageTextModel, loss: nn.Module) -> list[dict[str, Any]]:
    """Groups trainable parameters by tower or head, by layer if layers have different rates, and by weight decay.

    Layer i of d in a tower has the learning rate `tower * layer_decay ** (d - i)` (as in BEiT, Bao et al. 2021, arXiv
    2106.08254). Norms, biases and position embeddings have no weight decay.

    Returns:
        Groups with a `name`, with `lr` and `weight_decay` where they differ from the optimizer's defaults, and with
        `lr_scale`, a factor that the caller must apply to the learning rate.
    """
    towers = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    of_towers = {id(parameter) for tower in towers.values() for parameter in tower.parameters()}
    named = [*model.named_parameters(prefix="model"), *loss.named_parameters(prefix="loss")]
    heads = {name: parameter for name, parameter in named if id(parameter) not in of_towers}
    groups = [group for name, tower in towers.items() for group in _tower_groups(name, tower)]
    return [*_by_decay("heads", heads, {name for name, each in heads.items() if each.ndim <= 1}), *groups]


def _tower_groups(name: str, tower: Encoder) -> Iterator[dict[str, Any]]:
    decay, own_rate = tower.tuning.layer_decay, tower.tuning.learning_rate
    numbers = tower.layer_numbers() if decay < 1 else {}
    top = max(numbers.values(), default=0)
    layers: defaultdict[int, dict[str, nn.Parameter]] = defaultdict(dict)
    for each, parameter in tower.named_parameters():
        layers[numbers.get(each, top)][each] = parameter
    rate = {} if own_rate is None else {"lr": own_rate}
    for number, layer in sorted(layers.items()):
        label = f"{name}/layer_{number}" if numbers else name
        yield from _by_decay(label, layer, tower.without_weight_decay(), lr_scale=decay ** (top - number), **rate)


def _by_decay(
    name: str, parameters: Mapping[str, nn.Parameter], spared: Set[str], lr_scale: float = 1.0, **rate: float
) -> Iterator[dict[str, Any]]:
    """The non-empty ones of two groups: with and without weight decay."""
    trained = {each: parameter for each, parameter in parameters.items() if parameter.requires_grad}
    decayed = [parameter for each, parameter in trained.items() if each not in spared]
    rest = [parameter for each, parameter in trained.items() if each in spared]
    if decayed:
        yield {"params": decayed, "name": name, "lr_scale": lr_scale, **rate}
    if rest:
        yield {"params": rest, "name": f"{name}/no_decay", "lr_scale": lr_scale, "weight_decay": 0.0, **rate}
