"""Draws of the model that a run repeats after it was interrupted."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class KeyedDraws(Callback):
    """Seeds every generator anew before each training batch, with a key of (seed, epoch, batch, rank).

    So no generator's state needs to be stored: dropout draws the same after a resume as without an interruption,
    whatever validation or loading drew in between, and differently on each rank. The seed is that of the run
    (`seed_everything`), and a checkpoint carries it.
    """

    def __init__(self) -> None:
        self._seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the seed of rank 0; a checkpoint's takes its place."""
        if stage == "fit":
            self._seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Called when the batch is there, before the model sees it."""
        key = np.random.SeedSequence([self._seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        seed = int(key.generate_state(1, np.uint64)[0])
        # `torch.manual_seed` takes milliseconds where there is no GPU, over those that there could be
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The seed of the run that is gone on with."""
        self._seed = state_dict["seed"]
