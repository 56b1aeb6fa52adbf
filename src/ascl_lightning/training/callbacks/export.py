"""Exports the best weights of a run: safetensors, configuration and model card."""

import shutil
from pathlib import Path
from typing import Any

import lightning
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from ascl_lightning.errors import UserError
from ascl_lightning.models.exported import CARD, weights_file, write_settings
from ascl_lightning.runtime.checkpoints import DATA_MODULE, WEIGHTS, non_finite, read_checkpoint, read_weights
from ascl_lightning.runtime.config_files import CONFIG
from ascl_lightning.runtime.files import atomic_folder, write_file
from ascl_lightning.training.accessors import is_fast_dev_run, retrieval_data, retrieval_module, run_folder
from ascl_lightning.training.callbacks.non_finite import refuse_mostly_skipped
from ascl_lightning.training.config_changes import CHANGES
from ascl_lightning.training.model_card import described, model_card


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
            weights = weights_file(checkpoint["state_dict"], checkpoint.get(DATA_MODULE, {}))
            write_file(folder / WEIGHTS, weights)
            for name in (CONFIG, CHANGES):
                if (run / name).is_file():
                    shutil.copy(run / name, folder / name)
            write_settings(folder, retrieval_module(pl_module).model)
            write_file(folder / CARD, _model_card(trainer, pl_module, checkpoint, run / CONFIG))
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


def _model_card(trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any], config: Path) -> str:
    module, data = retrieval_module(pl_module), retrieval_data(trainer)
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    return model_card(
        module.model,
        settings,
        checkpoint.get("metrics", {}),
        parts={
            "loss": described(module.loss, settings.get("model", {}).get("loss")),
            "data": described(data.source, settings.get("data", {}).get("source")),
        },
        versions={"lightning": lightning.__version__},
        num_parameters=sum(value.numel() for value in module.parameters()),
        sizes={split: data.size(split) for split in ("train", "val")},
        operations=[type(made).__name__ for made in (*data.asymmetry.positives, *data.asymmetry.negatives)],
        monitor=getattr(trainer.checkpoint_callback, "monitor", None),
        steps=checkpoint["global_step"],
        skipped=checkpoint.get("skipped_steps", 0),
        processes=trainer.world_size,
        precision=trainer.precision,
    )
