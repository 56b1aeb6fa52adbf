"""Exported weights: a folder with a model's weights, configuration, tower settings and model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from ascl_lightning.data.provenance import Provenance
from ascl_lightning.errors import UserError
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.rebuild import PREFIX, TOWERS
from ascl_lightning.runtime.checkpoints import WEIGHTS
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import write_file

CARD = "README.md"
_METADATA_ROOM = 90_000_000
"""Most characters of metadata: safetensors rejects headers above 100 MB."""


@dataclass(frozen=True)
class Training:
    """What a trained model was loaded with, so that it can be saved again.

    Args:
        config: Configuration of the training; section `model` describes the model.
        data: State of the data module, such as the vocabulary.
        state: Weights of the training. Those outside the model are saved again as they are.
        card: Model card; None: there is none yet.
        metrics: Metrics of these weights, `val/...`, if they were validated.
    """

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    state: Mapping[str, Tensor] = field(repr=False)
    card: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def without_model(self) -> "Training":
        """Without the model's weights, of which a loaded model has a copy."""
        others = {name: value for name, value in self.state.items() if not name.startswith(PREFIX)}
        return replace(self, state=others)


def training_config(given: Mapping[str, Any] | Path) -> dict[str, Any]:
    """A configuration of a training whose section `model` is a mapping.

    Args:
        given: The configuration or its file, in which `model` may be the name of another file.

    Raises:
        UserError: If a file cannot be read, or there is no section `model`.
    """
    config = _read_yaml(given) if isinstance(given, Path) else given
    section = config.get("model")
    if isinstance(section, str) and isinstance(given, Path):
        section = _read_yaml(given.parent / section)
    if not isinstance(section, Mapping):
        source = given if isinstance(given, Path) else "config"
        raise UserError(f"{source}: no section `model`; give the config.yaml of the run")
    return {**config, "model": section}


def write_exported(folder: Path, model: ImageTextModel, training: Training, card: str) -> None:
    """Writes a model so that `Retriever.from_pretrained` loads it; other files of the folder stay.

    Args:
        folder: An existing folder.
        model: The model, with the weights to save.
        training: What it was loaded with.
        card: Model card.

    Raises:
        UserError: If the folder cannot be written, or the source of a tower's settings no longer exists.
    """
    own = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
    write_file(folder / WEIGHTS, weights_file({**training.state, **own}, training.data))
    write_file(folder / CONFIG, yaml.safe_dump(dict(training.config), sort_keys=False, allow_unicode=True))
    write_settings(folder, model)
    write_file(folder / CARD, card)


def write_settings(folder: Path, model: ImageTextModel) -> None:
    """Writes the settings and tokenizers of pretrained towers."""
    for tower in TOWERS:
        getattr(model, tower).save_settings(folder / tower)


def weights_file(state: Mapping[str, Tensor], data: Mapping[str, Any]) -> bytes:
    """The content of `model.safetensors`; the same weights give the same bytes.

    Args:
        state: `state_dict` of the training module.
        data: State of the data module. Its vocabulary and the provenance of the data become metadata.
    """
    carried = {name: data[name] for name in ("vocabulary", "provenance") if name in data}
    metadata = json.dumps(carried)
    if len(metadata) > _METADATA_ROOM and "provenance" in carried:
        unknown = Provenance(
            gaps=("training data: too many images to list in exported weights",),
            negatives=Provenance.from_state(carried["provenance"]).negatives,
        )
        metadata = json.dumps(carried | {"provenance": unknown.state()})
    # safetensors rejects tensors that share memory, as tied weights do
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items()}
    # a single entry: the order of several is undefined, so equal weights could give different bytes
    return save(tensors, {"data": metadata})


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"cannot read the configuration '{path}': {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"'{path}' is not a configuration; give the config.yaml of the run")
    return content
