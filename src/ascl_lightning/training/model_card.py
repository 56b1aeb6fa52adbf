"""Model cards: what a model is made of, how well it ranks, and how to use it."""

from collections.abc import Mapping
from typing import Any

import torch

import ascl_lightning
from ascl_lightning.metrics.labels import COLUMNS, recall_rows
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.runtime.templates import render


def model_card(
    model: ImageTextModel,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    parts: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    **training: Any,
) -> str:
    """Renders a model card.

    Args:
        model: The model.
        config: Configuration of the training.
        metrics: Validation metrics of these weights, `val/...`; empty if they were not validated.
        parts: Descriptions of further parts of the training.
        versions: Versions of further libraries.
        **training: What the template says about a training that has just ended; without it, the weights are said to
            come from a checkpoint.

    Returns:
        Markdown with a YAML header, as the model hub reads it.
    """
    section = config.get("model", {})
    found = {name.removeprefix("val/"): value for name, value in metrics.items()}
    own = {
        "image tower": described(model.image_encoder, section.get("image_encoder")),
        "text tower": described(model.text_encoder, section.get("text_encoder")),
        "similarity": type(model.similarity).__name__,
    }
    made_with = {"ascl-lightning": ascl_lightning.__version__, "torch": torch.__version__}
    num_parameters = sum(value.numel() for value in model.parameters())
    return render(
        "training/model_card.md.jinja",
        parts=own | dict(parts or {}),
        columns=COLUMNS,
        table=recall_rows(found),
        versions=made_with | dict(versions or {}),
        **{"num_parameters": num_parameters} | training,
    )


def described(part: object, config: Any) -> str:
    """A part's class with its arguments from the configuration."""
    given = config.get("init_args", {}) if isinstance(config, dict) else {}
    arguments = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"{type(part).__name__}({arguments})"
