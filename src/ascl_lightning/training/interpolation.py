"""Interpolates between the weights before and after fine-tuning."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ascl_lightning.errors import UserError
from ascl_lightning.training.module import RetrievalModule

State = Mapping[str, Tensor]


def interpolated_names(module: RetrievalModule) -> set[str]:
    """Names of the state entries to interpolate: those of towers that are pretrained and fine-tuned.

    Of a LoRA adapter only B is interpolated: it starts at zero, so this scales the product B A. A starts at random.

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
            "nothing to interpolate: the config has no pretrained tower that was fine-tuned (towers trained from "
            "scratch start at random, and frozen towers do not change)"
        )
    return names


def interpolate(start: State, tuned: State, names: set[str], weight: float) -> dict[str, Tensor]:
    """Returns `(1 - weight) * start + weight * tuned` for the named entries, and `tuned` for all others.

    Source: WiSE-FT, Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).

    Args:
        start: Weights before fine-tuning.
        tuned: Weights after fine-tuning.
        names: Entries to interpolate.
        weight: Weight of `tuned`, in [0, 1].
    """
    return {name: torch.lerp(start[name], value, weight) if name in names else value for name, value in tuned.items()}
