"""The best weights of a run in a form to hand on: safetensors, the configuration, a page that says what they are."""

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
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.provenance import Provenance
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.labels import COLUMNS, recall_rows
from ascl_lightning.models.rebuild import TOWERS
from ascl_lightning.runtime.checkpoints import WEIGHTS, non_finite, read_checkpoint, read_weights
from ascl_lightning.runtime.files import atomic_folder, write_file
from ascl_lightning.runtime.templates import render
from ascl_lightning.training.accessors import is_trial, retrieval_data, retrieval_module, run_folder
from ascl_lightning.training.callbacks.non_finite import refuse_mostly_skipped
from ascl_lightning.training.config_changes import CHANGES, CONFIG

_METADATA_ROOM = 90_000_000
"""Characters; the format refuses files that have more than 100 MB beside their tensors."""


class WeightsExport(Callback):
    """Writes `weights/` to the run's folder when a training is complete: of the checkpoint with the best metric.

    `model.safetensors` holds the weights, and in its metadata the vocabulary and what data made them; `config.yaml` is
    the run's; folders named after the towers hold the settings and the tokenizer of pretrained ones; `README.md` is a
    model card of facts that the run knows. `ascl_lightning.Retriever.from_pretrained` loads the folder.
    """

    def __init__(self) -> None:
        self._validated_step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, and until the next step, the metrics are those of the weights."""
        self._validated_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint carries the figures of its weights, where they were validated."""
        if self._validated_step == trainer.global_step:
            metrics = trainer.callback_metrics
            checkpoint["metrics"] = {name: float(metrics[name]) for name in metrics if name.startswith("val/")}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank 0 writes; a folder appears whole or not at all.

        Raises:
            UserError: If the weights are not finite, or most of the steps that made them were skipped.
        """
        if is_trial(trainer):
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
                f"no weights are exported: '{best}' holds weights that are not finite ({bad}); "
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
        rank_zero_info(f"Weights to hand on: {run / 'weights'}")


def weights_as_checkpoint(path: Path) -> dict[str, Any]:
    """What `ascl test` needs of a checkpoint, from exported weights.

    Raises:
        UserError: If the file cannot be read.
    """
    state, data = read_weights(path)
    return {
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state,
        RetrievalDataModule.__qualname__: data,
    }


def _weights_file(checkpoint: dict[str, Any]) -> bytes:
    data = checkpoint.get(RetrievalDataModule.__qualname__, {})
    carried = {name: data[name] for name in ("vocabulary", "provenance") if name in data}
    said = json.dumps(carried)
    if len(said) > _METADATA_ROOM and "provenance" in carried:
        unknown = Provenance(gaps=("the data that made the weights: too many images to be noted in exported weights",))
        said = json.dumps(carried | {"provenance": unknown.state()})
    # one entry: several come in any order, and the same weights would give other bytes
    metadata = {"data": said}
    # weights that are tied share their memory, and the format wants each entry to have its own
    state = {name: value.clone().contiguous() for name, value in checkpoint["state_dict"].items()}
    return save(state, metadata)


def _model_card(trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any], config: Path) -> str:
    module, data = retrieval_module(pl_module), retrieval_data(trainer)
    said = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    model = said.get("model", {})
    parts = {
        "image tower": _described(module.model.image_encoder, model.get("image_encoder")),
        "text tower": _described(module.model.text_encoder, model.get("text_encoder")),
        "similarity": type(module.model.similarity).__name__,
        "loss": _described(module.loss, model.get("loss")),
        "data": _described(data.source, said.get("data", {}).get("source")),
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
    """A part's class, and what the configuration gives it."""
    given = config.get("init_args", {}) if isinstance(config, dict) else {}
    arguments = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"{type(part).__name__}({arguments})"
