"""Makes the model's random numbers, such as dropout, reproducible after a resume."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class KeyedDraws(Callback):
    """Seeds all global random generators before each training batch, with a hash of (seed, epoch, batch, rank).

    Dropout is thus the same after a resume as without an interruption, and differs between ranks, without storing
    generator states. The seed is that of the run (`seed_everything`) and is stored in checkpoints.
    """

    def __init__(self) -> None:
        self._seed = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the seed of rank 0; `load_state_dict` overrides it."""
        if stage == "fit":
            self._seed = trainer.strategy.broadcast(torch.initial_seed())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Called after the batch is loaded, before the forward pass."""
        key = np.random.SeedSequence([self._seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        seed = int(key.generate_state(1, np.uint64)[0])
        # `torch.manual_seed` takes milliseconds without a GPU, since it queues a seed for each backend
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def state_dict(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the seed of the resumed run."""
        self._seed = state_dict["seed"]
