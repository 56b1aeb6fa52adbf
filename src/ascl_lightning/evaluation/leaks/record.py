"""Notes in the checkpoints of a training what it is trained and selected on, for `ascl test` to compare with."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.provenance import Provenance, Selection
from ascl_lightning.training.accessors import callbacks_of, is_trial, retrieval_data


class RecordProvenance(Callback):
    """Has the data module carry the record, so that every kind of checkpoint and exported weights have it.

    A run that goes on from a checkpoint adds to what that says. Only rank 0 looks at the data: its checkpoint is kept.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called when a checkpoint that is gone on from is restored, whatever the strategy."""
        if is_trial(trainer) or not trainer.is_global_zero:
            return
        data = retrieval_data(trainer)
        earlier = data.provenance
        if earlier is None:
            unknown = ("the data behind the checkpoint that training went on from, which does not say",)
            earlier = Provenance(gaps=unknown if trainer.ckpt_path is not None else ())
        data.provenance = earlier.trained(data.digest("train"), data.vocabulary)
        note_selection(data, _monitors(trainer))


def note_selection(data: RetrievalDataModule, monitors: tuple[str, ...]) -> None:
    """Notes that the weights in use are chosen on the validation split.

    Args:
        data: Where the split comes from, and what carries the record.
        monitors: The metrics by which.
    """
    if any(not monitor.startswith("train/") for monitor in monitors):
        earlier = data.provenance or Provenance(gaps=("the data behind the checkpoint, which does not say",))
        data.provenance = earlier.selected(Selection("val", monitors, data.digest("val")))


def _monitors(trainer: Trainer) -> tuple[str, ...]:
    chosen_by = [callback.monitor for callback in callbacks_of(trainer, ModelCheckpoint)]
    stopped_by = [callback.monitor for callback in callbacks_of(trainer, EarlyStopping)]
    return tuple(dict.fromkeys(monitor for monitor in (*chosen_by, *stopped_by) if monitor is not None))
