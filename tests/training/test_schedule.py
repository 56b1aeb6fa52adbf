import math

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import MeanColour, WordTable

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.errors import UserError
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.training.module import RetrievalModule
from ascl_lightning.training.schedule import WarmupCosine, total_steps


def test_the_rate_of_each_step_is_that_of_the_formula():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=10.0)
    scheduler = WarmupCosine(warmup=0.4, final=0.5).scheduler(optimizer, total_steps=5)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # two steps of warm-up, then 5 + 5 * (1 + cos(pi * t / 3)) / 2 for t = 0, 1, 2
    expected = [5.0, 10.0, 10.0, 5 + 2.5 * (1 + math.cos(math.pi / 3)), 5 + 2.5 * (1 + math.cos(2 * math.pi / 3))]
    assert rates == pytest.approx(expected)


def test_without_warmup_the_first_step_has_the_peak_rate():
    assert WarmupCosine(warmup=0.0).factor(0, 10) == 1.0


def test_beyond_the_last_step_the_rate_stays():
    assert WarmupCosine(warmup=0.0, final=0.25).factor(99, 10) == 0.25


@pytest.mark.parametrize("shares", [{"warmup": -0.1}, {"warmup": 1.1}, {"final": 2.0}])
def test_fractions_outside_0_and_1_are_refused(shares):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WarmupCosine(**shares)


class Steps(Callback):
    """Records the step count before the loader exists; after training, the estimated and the taken steps."""

    def on_fit_start(self, trainer, pl_module):
        assert trainer.train_dataloader is None
        self.expected = total_steps(trainer)

    def on_train_end(self, trainer, pl_module):
        self.estimated, self.taken = trainer.estimated_stepping_batches, trainer.global_step


LIMITS = {
    "all": {},
    "batches": {"limit_train_batches": 2},
    "share": {"limit_train_batches": 0.5},
    "steps": {"max_steps": 3},
    "more steps than there are": {"max_steps": 99},
    "steps alone": {"max_epochs": -1, "max_steps": 4},
    "trial": {"fast_dev_run": True},
}


def fit(root, callback, **limits) -> None:
    write_karpathy(root / "data", {"train": 5, "val": 4}, captions=2)
    module = RetrievalModule(MeanColour(), WordTable(), FusedSimilarity(4, num_heads=2), InfoNCE())
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    arguments = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": root} | quiet | limits
    datamodule = RetrievalDataModule(KarpathyJson("dataset_flickr8k.json"), str(root / "data"), batch_size=3, **specs)
    Trainer(callbacks=[callback], use_distributed_sampler=False, **arguments).fit(module, datamodule)


@pytest.mark.parametrize("limits", LIMITS)
def test_steps_are_counted_before_the_training_loader_is_built(limits, tmp_path):
    steps = Steps()
    fit(tmp_path, steps, **LIMITS[limits])
    assert steps.expected == steps.estimated == steps.taken


def test_training_without_an_end_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"max_epochs or --trainer\.max_steps"):
        fit(tmp_path, Steps(), max_epochs=-1)
