"""Between the weights that fine-tuning began with and those it ended with."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.training.module import RetrievalModule

State = Mapping[str, Tensor]


def interpolated_names(module: RetrievalModule) -> set[str]:
    """Entries of the module's state that have a start worth going back to: those of pretrained, trained towers.

    An adapter's B starts at zero and is interpolated, which weighs the product B A; its A starts at random and is not.

    Raises:
        UserError: If there are none.
    """
    towers = {"image_encoder": module.model.image_encoder, "text_encoder": module.model.text_encoder}
    prefixes = tuple(f"model.{name}." for name, tower in towers.items() if tower.pretrained and not tower.tuning.frozen)
    names = {
        name
        for name, value in module.state_dict().items()
        if name.startswith(prefixes) and value.is_floating_point() and ".lora_A." not in name
    }
    if not names:
        raise UserError(
            "there is nothing to interpolate: no tower of the config is pretrained and trained on; "
            "towers from scratch start at random, and frozen ones end where they start"
        )
    return names


def interpolate(start: State, tuned: State, names: set[str], weight: float) -> dict[str, Tensor]:
    """`(1 - weight) * start + weight * tuned` of the named entries; the tuned ones of all others.

    Source: WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).

    Args:
        start: Weights before fine-tuning.
        tuned: Weights after it.
        names: What to interpolate.
        weight: Share of the tuned weights, in [0, 1].
    """
    return {name: torch.lerp(start[name], value, weight) if name in names else value for name, value in tuned.items()}
