"""Which parameters are trained, at which rates, and which of them decay."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ascl_lightning.models.encoder import Encoder
from ascl_lightning.models.model import ImageTextModel

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def build_optimizer(factory: OptimizerFactory, model: ImageTextModel, loss: nn.Module) -> Optimizer:
    """An optimizer over everything trainable.

    Args:
        factory: Called with the groups of `parameter_groups`; it brings the learning rate and the weight decay that
            groups without their own get.
        model: Towers and what stands on them.
        loss: Trained beside them, if its temperature is learned.
    """
    optimizer = factory(parameter_groups(model, loss))
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group["lr_scale"]
    return optimizer


def parameter_groups(model: ImageTextModel, loss: nn.Module) -> list[dict[str, Any]]:
    """Every trainable parameter, in one group: by tower or head, by layer where rates differ, by weight decay.

    A tower's layer i of d has the learning rate `tower * layer_decay ** (d - i)` (as in BEiT, Bao et al. 2021, arXiv
    2106.08254). Norms, biases and positions do not decay.

    Returns:
        Groups as optimizers take them, with a `name`, `lr` and `weight_decay` where they are not the optimizer's own,
        and `lr_scale`, by which the learning rate is still to be multiplied.
    """
    towers = {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    groups = [group for name, tower in towers.items() for group in _tower_groups(name, tower)]
    of_towers = {id(parameter) for tower in towers.values() for parameter in tower.parameters()}
    heads = [p for module in (model, loss) for p in module.parameters() if id(p) not in of_towers]
    return [*_by_decay("heads", heads, [p for p in heads if p.ndim <= 1]), *groups]


def _tower_groups(name: str, tower: Encoder) -> Iterator[dict[str, Any]]:
    parameters = dict(tower.named_parameters())
    undecayed = [parameters[each] for each in tower.without_weight_decay() & parameters.keys()]
    rate = {} if tower.learning_rate is None else {"lr": tower.learning_rate}
    decay = tower.tuning.layer_decay
    if decay == 1:
        yield from _by_decay(name, parameters.values(), undecayed, **rate)
        return
    numbers = tower.layer_numbers()
    top = max(numbers.values())
    for number in range(top + 1):
        layer = [parameter for each, parameter in parameters.items() if numbers[each] == number]
        scale = decay ** (top - number)
        yield from _by_decay(f"{name}/layer_{number}", layer, undecayed, lr_scale=scale, **rate)


def _by_decay(
    name: str,
    parameters: Iterable[nn.Parameter],
    undecayed: Iterable[nn.Parameter],
    lr_scale: float = 1.0,
    **rate: float,
) -> Iterator[dict[str, Any]]:
    """Two groups, or the one of them that is not empty."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    spared = {id(parameter) for parameter in undecayed}
    decayed, rest = ([p for p in trained if (id(p) in spared) == among] for among in (False, True))
    if decayed:
        yield {"params": decayed, "name": name, "lr_scale": lr_scale, **rate}
    if rest:
        yield {"params": rest, "name": f"{name}/no_decay", "lr_scale": lr_scale, "weight_decay": 0.0, **rate}
