"""Exports the best weights of a run: safetensors, configuration and model card."""

import json
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from safetensors.torch import save

import ascl_lightning
from ascl_lightning.data.provenance import Provenance
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.labels import COLUMNS, recall_rows
from ascl_lightning.models.rebuild import TOWERS
from ascl_lightning.runtime.checkpoints import DATA_MODULE, WEIGHTS, non_finite, read_checkpoint, read_weights
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import atomic_folder, write_file
from ascl_lightning.runtime.templates import render
from ascl_lightning.training.accessors import is_fast_dev_run, retrieval_data, retrieval_module, run_folder
from ascl_lightning.training.callbacks.non_finite import refuse_mostly_skipped
from ascl_lightning.training.config_changes import CHANGES

_METADATA_ROOM = 90_000_000
"""Most characters of metadata: safetensors rejects headers above 100 MB."""


class WeightsExport(Callback):
    """Writes the weights of the best checkpoint to `weights/` in the run folder when training is complete.

    `model.safetensors` holds the weights, with the vocabulary and the provenance of the data in its metadata;
    `config.yaml` is the run's; folders named after the towers hold the settings and tokenizers of pretrained towers;
    `README.md` is a model card. `ascl_lightning.Retriever.from_pretrained` loads the folder.
    """

    def __init__(self) -> None:
        self._validated_step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step: until the next one, the logged metrics belong to the current weights."""
        self._validated_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stores the validation metrics in the checkpoint if its weights were validated."""
        if self._validated_step == trainer.global_step:
            metrics = trainer.callback_metrics
            checkpoint["metrics"] = {name: float(metrics[name]) for name in metrics if name.startswith("val/")}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the folder atomically, on rank 0.

        Raises:
            UserError: If the weights are not finite, or more than half of the training steps were skipped.
        """
        if is_fast_dev_run(trainer):
            return
        run = run_folder(trainer)
        best = Path(getattr(trainer.checkpoint_callback, "best_model_path", ""))
        if not trainer.is_global_zero or not best.is_file():
            return
        checkpoint = read_checkpoint(best)
        refuse_mostly_skipped(checkpoint.get("skipped_steps", 0), checkpoint["global_step"])
        bad = non_finite(checkpoint["state_dict"])
        if bad:
            raise UserError(
                f"weights are not exported: '{best}' holds weights that are not finite ({bad}); "
                f"train again with a lower learning rate"
            )
        with atomic_folder(run / "weights") as folder:
            write_file(folder / WEIGHTS, _weights_file(checkpoint))
            for name in (CONFIG, CHANGES):
                if (run / name).is_file():
                    shutil.copy(run / name, folder / name)
            for tower in TOWERS:
                getattr(retrieval_module(pl_module).model, tower).save_settings(folder / tower)
            write_file(folder / "README.md", _model_card(trainer, pl_module, checkpoint, run / CONFIG))
        rank_zero_info(f"Exported weights: {run / 'weights'}")


def weights_as_checkpoint(path: Path) -> dict[str, Any]:
    """Exported weights as the checkpoint dict that `ascl test` loads.

    Raises:
        UserError: If the file cannot be read.
    """
    state, data = read_weights(path)
    return {
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state,
        DATA_MODULE: data,
    }


def _weights_file(checkpoint: dict[str, Any]) -> bytes:
    data = checkpoint.get(DATA_MODULE, {})
    carried = {name: data[name] for name in ("vocabulary", "provenance") if name in data}
    metadata = json.dumps(carried)
    if len(metadata) > _METADATA_ROOM and "provenance" in carried:
        unknown = Provenance(
            gaps=("training data: too many images to list in exported weights",),
            negatives=Provenance.from_state(carried["provenance"]).negatives,
        )
        metadata = json.dumps(carried | {"provenance": unknown.state()})
    # safetensors rejects tensors that share memory, as tied weights do
    state = {name: value.clone().contiguous() for name, value in checkpoint["state_dict"].items()}
    # a single entry: the order of several is undefined, so equal weights could give different bytes
    return save(state, {"data": metadata})


def _model_card(trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any], config: Path) -> str:
    module, data = retrieval_module(pl_module), retrieval_data(trainer)
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    model = settings.get("model", {})
    parts = {
        "image tower": _described(module.model.image_encoder, model.get("image_encoder")),
        "text tower": _described(module.model.text_encoder, model.get("text_encoder")),
        "similarity": type(module.model.similarity).__name__,
        "loss": _described(module.loss, model.get("loss")),
        "data": _described(data.source, settings.get("data", {}).get("source")),
    }
    metrics = {name.removeprefix("val/"): value for name, value in checkpoint.get("metrics", {}).items()}
    callback = trainer.checkpoint_callback
    return render(
        "training/callbacks/model_card.md.jinja",
        parts=parts,
        num_parameters=sum(value.numel() for value in module.parameters()),
        sizes={split: data.size(split) for split in ("train", "val")},
        operations=[type(made).__name__ for made in (*data.asymmetry.positives, *data.asymmetry.negatives)],
        columns=COLUMNS,
        table=recall_rows(metrics),
        monitor=getattr(callback, "monitor", None),
        steps=checkpoint["global_step"],
        skipped=checkpoint.get("skipped_steps", 0),
        processes=trainer.world_size,
        precision=trainer.precision,
        versions={
            "ascl-lightning": ascl_lightning.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
        },
    )


def _described(part: object, config: Any) -> str:
    """A part's class with its arguments from the configuration."""
    given = config.get("init_args", {}) if isinstance(config, dict) else {}
    arguments = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"{type(part).__name__}({arguments})"
