"""How a tower is trained: learning rates, freezing, low-rank adapters, activation checkpointing."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.cut import is_within
from ascl_lightning.runtime.number_types import PositiveFloat


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, "LoRA", arXiv 2106.09685).

    An adapted linear map is W + alpha / rank * B A. The small matrices A and B are trained, B starting at zero; W is
    frozen, and saved in checkpoints too. Needs `ascl-lightning[lora]`.

    Args:
        rank: Rows of A and columns of B.
        alpha: Weight of the product, before division by the rank.
        dropout: Dropout probability of an adapter's inputs.
        targets: Names of the adapted linear maps, or their last parts (`[q_proj, v_proj]`); None: all linear maps.

    Raises:
        ValueError: If the rank or alpha is not positive, or the dropout is outside [0, 1).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora needs a rank of 1 or more, alpha above 0 and a dropout from 0 to below 1, "
                f"not {self.rank}, {self.alpha} and {self.dropout}"
            )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a tower is trained.

    Args:
        frozen: Never train the tower: its parameters require no gradient, none is computed through it, and it stays
            in evaluation mode (no dropout, fixed batch statistics) even after `train()`. Of the other arguments, only
            `learning_rate` may be set; it is ignored.
        learning_rate: The tower's learning rate; None: the optimizer's.
        layer_decay: Learning rate of each layer relative to the layer above it; the top layer has the tower's rate.
            Embeddings or a stem below the first layer count as one more layer. 1: the same rate everywhere.
        thaw_after: Fraction of all training steps during which only the heads are trained. The tower meanwhile runs in
            evaluation mode and without gradients, which saves its backward pass and its activations, but not its
            forward pass. Afterwards it is trained at the rate that the schedule has reached. 0: trained from the start.
        lora: Train low-rank adapters instead of the tower's own weights; None: train the weights.
        checkpointing: Store one activation per layer and recompute the others in the backward pass: less memory for
            up to one more forward pass (Chen et al. 2016, arXiv 1604.06174).

    Raises:
        ValueError: If a fraction is out of bounds, or a frozen tower has options for training.
    """

    frozen: bool = False
    learning_rate: PositiveFloat | None = None
    layer_decay: float = 1.0
    thaw_after: float = 0.0
    lora: Lora | None = None
    checkpointing: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.layer_decay <= 1 and 0 <= self.thaw_after < 1):
            raise ValueError(
                f"layer_decay must be above 0 and at most 1, thaw_after at least 0 and below 1, "
                f"not {self.layer_decay} and {self.thaw_after}"
            )
        of_training = (self.layer_decay, self.thaw_after, self.lora, self.checkpointing)
        if self.frozen and of_training != (1.0, 0.0, None, False):
            raise ValueError(
                f"a frozen tower is not trained: set frozen to false, or remove the other options of {self}"
            )


def add_adapters(tower: nn.Module, lora: Lora, above: Sequence[str] = ()) -> None:
    """Adds adapters to a tower's linear maps and freezes everything else.

    Args:
        tower: The tower; changed in place.
        lora: The adapters.
        above: Names of the modules above the tower's cut, which alone are adapted; empty without a cut.

    Raises:
        UserError: If `peft` is not installed, the tower has batch statistics, which would change although the weights
            are frozen, or `targets` matches no linear map.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("lora needs peft: pip install 'ascl-lightning[lora]'") from error
    if not above and any(isinstance(module, _BatchNorm) for module in tower.modules()):
        raise UserError(
            "lora freezes a tower's weights, but this tower has batch statistics, which would change: remove lora"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets is None else lora.targets,
        exclude_modules=_unreachable(tower) + (_linear_maps_outside(tower, above) if above else []),
    )
    try:
        inject_adapter_in_model(config, tower)
    except ValueError as error:
        maps = {name.rpartition(".")[2] for name in _linear_maps_outside(tower, ())}
        raise UserError(f"lora.targets {lora.targets}: the linear maps of this tower are {sorted(maps)}") from error


def _unreachable(tower: nn.Module) -> list[str]:
    """Linear maps whose weights torch's attention reads without calling them: an adapter would have no effect."""
    attentions = [name for name, module in tower.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return [f"{name}.out_proj" for name in attentions]


def _linear_maps_outside(tower: nn.Module, parts: Sequence[str]) -> list[str]:
    named = tower.named_modules()
    return [name for name, module in named if isinstance(module, nn.Linear) and not is_within(name, parts)]
