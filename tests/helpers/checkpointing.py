"""Callbacks that save where a test wants to resume."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class SaveAfter(Callback):
    """Saves a checkpoint at the end of an epoch."""

    def __init__(self, epoch: int, path: Path) -> None:
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
