import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from tests.helpers.processes import run_forked

from ascl_lightning.commands.base import CommandCLI

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")
FLAGS = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


class Stopping(LightningModule):
    """Gets SIGTERM in its first batch of two."""

    def predict_step(self, batch, batch_idx):
        print(f"batch {batch_idx}", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    validation_step = predict_step


@pytest.mark.parametrize("method", ["predict", "validate"])
def test_sigterm_ends_a_command(method):
    """Lightning would let it run to its end."""

    class TrainerAlone(CommandCLI):
        def instantiate_classes(self):
            self.config_init = self.config
            self.trainer = self.instantiate_trainer()

    def command():
        trainer = TrainerAlone(["trainer-alone", "--config", TINY, *FLAGS]).trainer
        getattr(trainer, method)(Stopping(), torch.utils.data.DataLoader(range(2)))

    ended = run_forked(command)

    assert (ended.returncode, ended.stdout.splitlines()) == (143, ["batch 0"]), ended.stderr
