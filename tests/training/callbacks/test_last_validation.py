"""Training ends with a validation for any configured interval; resumed runs are in `test_recovery.py`."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from ascl_lightning.training.callbacks.last_validation import LastValidation


class Line(LightningModule):
    """Records the steps after which it was validated."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.validated = []

    def training_step(self, batch, batch_idx):
        return (self.weight * batch).sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == self.step


def validated(root, callbacks=(), **arguments):
    """Steps after which a training with 4 steps per epoch validates."""
    module, batches = Line(), DataLoader(torch.ones(4, 1))
    trainer = Trainer(
        **({"max_epochs": 3} | arguments),
        accelerator="cpu",
        default_root_dir=root,
        logger=False,
        callbacks=[*callbacks, LastValidation()],
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches, DataLoader(torch.ones(1, 1)))
    return module.validated


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [4, 8, 12]),
        ({"check_val_every_n_epoch": 5}, [12]),
        ({"check_val_every_n_epoch": 2}, [8, 12]),
        ({"val_check_interval": 3}, [3, 7, 11, 12]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 5}, [5, 10, 12]),
        ({"val_check_interval": "01:00:00:00"}, [12]),
        ({"max_steps": 6}, [4, 6]),
        ({"max_steps": 6, "check_val_every_n_epoch": 5}, [6]),
        ({"max_steps": 8, "check_val_every_n_epoch": 5}, [8]),
        ({"accumulate_grad_batches": 4, "check_val_every_n_epoch": 5}, [3]),
        ({"min_epochs": 3, "check_val_every_n_epoch": 5}, [12]),
        ({"limit_val_batches": 0}, []),
    ],
)
def test_the_last_step_is_validated_once(tmp_path, arguments, expected):
    assert validated(tmp_path, **arguments) == expected


def test_a_training_that_a_callback_stops_is_validated(tmp_path):
    assert validated(tmp_path, [StopAt(6)], check_val_every_n_epoch=5) == [6]
