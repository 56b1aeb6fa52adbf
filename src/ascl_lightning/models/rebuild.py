"""Builds a trained model from its configuration and weights, without importing code that the configuration names."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor

import ascl_lightning.models as parts
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.towers.pretrained import load_state
from ascl_lightning.models.untrained import without_pretrained_weights
from ascl_lightning.renamed import current_config

PACKAGE = "ascl_lightning."
TOWERS = ("image_encoder", "text_encoder")
"""Towers in a configuration; also the folders with their settings next to exported weights."""
SECTIONS = (*TOWERS, "similarity", "project", "image_pooling", "text_pooling")
"""Parts of a model; the rest of a configuration concerns training and is not read."""
PREFIX = "model."
"""Prefix of the model's weights among those of `RetrievalModule`."""
_DEEPEST, _MOST_VALUES = 20, 10_000


def rebuild_model(
    config: Mapping[str, Any], state: Mapping[str, Tensor], source: str, settings: Path | None = None
) -> ImageTextModel:
    """Builds the model of a run, without downloading pretrained weights.

    Args:
        config: Section `model` of the run's configuration. It may only name public classes of
            `ascl_lightning.models`, which are looked up by name.
        state: `state_dict` of the run's checkpoint.
        source: Origin of both, for error messages.
        settings: Folder of exported weights, which may contain settings of pretrained towers.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: If the configuration does not describe a model or names other classes, or the weights do not fit.
    """
    missing = [name for name in SECTIONS[:3] if not isinstance(config.get(name), Mapping)]
    if missing:
        raise UserError(f"{source}: the configuration lacks model.{missing[0]}; give the config.yaml of the run")
    sections = {name: deepcopy(config[name]) for name in SECTIONS if name in config}
    _Checked(source).walk(sections, "model", 0)
    sections = current_config(sections)
    for name in TOWERS:
        _use_settings(sections[name], settings and settings / name)
    with without_pretrained_weights():
        model = _built(sections, source)
    own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    load_state(model, own, source)
    return model.eval()


class _Checked:
    """Checks all values of a configuration before anything is built from it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._seen = 0

    def walk(self, value: Any, place: str, depth: int) -> None:
        """Replaces class names by full class paths.

        Raises:
            UserError: If a class is not from this package, or the configuration is too large or cyclic.
        """
        self._seen += 1
        if depth > _DEEPEST or self._seen > _MOST_VALUES:
            raise UserError(f"{self._source}: the configuration at {place} is too large or cyclic")
        if isinstance(value, dict) and "class_path" in value:
            value["class_path"] = self._known(value["class_path"], place)
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self.walk(inner, f"{place}.{key}", depth + 1)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                self.walk(inner, f"{place}[{number}]", depth + 1)

    def _known(self, class_path: Any, place: str) -> str:
        name = str(class_path).rpartition(".")[2]
        is_ours = str(class_path) == name or str(class_path).startswith(PACKAGE)
        if not is_ours or name not in parts.__all__ or not isinstance(getattr(parts, name), type):
            raise UserError(
                f"{self._source}: {place} names '{class_path}', but a configuration may only name classes of "
                f"{PACKAGE}models: build another model in Python and pass it to Retriever(model, tokenizer)"
            )
        return f"{parts.__name__}.{name}"


def _use_settings(section: Any, folder: Path | None) -> None:
    """Points a pretrained tower to the settings next to the weights, if they exist."""
    arguments = section.get("init_args", {})
    if folder is not None and "path" in arguments and (folder / "config.json").is_file():
        arguments["path"] = str(folder)


def _built(sections: dict[str, Any], source: str) -> ImageTextModel:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ImageTextModel, "model")
    try:
        model: ImageTextModel = parser.instantiate(parser.parse_object({"model": sections})).model
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(
            f"{source}: the configuration does not describe a model: {' '.join(str(error).split())}"
        ) from error
    return model
