"""Records in checkpoints which data a model is trained and selected on, for the leak checks of `ascl test`.

The record also names the operations that made T-, so that the report card can tell which of its own are unseen.
"""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.provenance import Provenance, Selection
from ascl_lightning.training.accessors import callbacks_of, is_fast_dev_run, retrieval_data, retrieval_module
from ascl_lightning.training.module import RetrievalModule


class RecordProvenance(Callback):
    """Stores the record in the data module, from which all checkpoints and exported weights take it.

    A resumed run adds to the record of its checkpoint. Only rank 0 records, because it writes the checkpoints.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the training data; a checkpoint is already restored at this point."""
        if is_fast_dev_run(trainer) or not trainer.is_global_zero:
            return
        data = retrieval_data(trainer)
        earlier = data.provenance
        if earlier is None:
            unknown = ("the data of the checkpoint that training resumed from, which has no record",)
            earlier = Provenance(gaps=unknown if trainer.ckpt_path is not None else ())
        negatives = used_negatives(data, retrieval_module(pl_module))
        data.provenance = earlier.trained(data.digest("train"), data.vocabulary, negatives)
        note_selection(data, _monitors(trainer))


def used_negatives(data: RetrievalDataModule, module: RetrievalModule) -> list[str]:
    """Names of the operations whose T- the loss uses, by the configuration."""
    return [operation.name for operation in data.asymmetry.negatives] if module.loss.uses_negatives else []


def note_selection(data: RetrievalDataModule, monitors: tuple[str, ...]) -> None:
    """Records that the weights are selected on the validation split.

    Args:
        data: Data module with the split and the record.
        monitors: Metrics that select the weights.
    """
    if any(not monitor.startswith("train/") for monitor in monitors):
        earlier = data.provenance or Provenance(gaps=("the data of the checkpoint, which has no record",))
        data.provenance = earlier.selected(Selection("val", monitors, data.digest("val")))


def _monitors(trainer: Trainer) -> tuple[str, ...]:
    chosen_by = [callback.monitor for callback in callbacks_of(trainer, ModelCheckpoint)]
    stopped_by = [callback.monitor for callback in callbacks_of(trainer, EarlyStopping)]
    return tuple(dict.fromkeys(monitor for monitor in (*chosen_by, *stopped_by) if monitor is not None))
