import csv
from itertools import count
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from tests.helpers.datasets import write_karpathy
from tests.helpers.encoders import MeanColour, WordTable

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import KarpathyJson
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models import FusedSimilarity
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.training.callbacks.progress import TrainingProgress
from ascl_lightning.training.module import RetrievalModule
from ascl_lightning.training.schedule import WarmupCosine


def fit(root, logger=True, **arguments) -> list[dict[str, str]]:
    """Rows that `TrainingProgress` logs in two epochs of three batches of 4 pairs."""
    write_karpathy(root, {"train": 4, "val": 2}, captions=3)
    torch.manual_seed(0)
    module = RetrievalModule(
        MeanColour(),
        WordTable(tuning=Tuning(learning_rate=0.25)),
        FusedSimilarity(4, num_heads=2),
        InfoNCE(temperature=0.05, learn_temperature=False),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5),
        schedule=WarmupCosine(warmup=0.5, final=0.0),
    )
    specs = {"image_spec": module.model.image_encoder.spec, "text_spec": module.model.text_encoder.spec}
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=root,
        logger=CSVLogger(root, name="fit") if logger else False,
        callbacks=[TrainingProgress()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **arguments,
    )
    source = KarpathyJson("dataset_flickr8k.json")
    trainer.fit(module, datamodule=RetrievalDataModule(source, str(root), batch_size=4, **specs))
    if not logger:
        return []
    with (root / "fit" / "version_0" / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["train/pairs_per_second"]]


def column(rows, name):
    return [float(row[name]) for row in rows]


def test_logged_rates_are_those_of_the_taken_steps(tmp_path):
    """Up in three of six steps, then down a cosine: (s + 1) / 3, then (1 + cos(pi t / 3)) / 2."""
    rows = fit(tmp_path, log_every_n_steps=1)
    shares = [1 / 3, 2 / 3, 1, 1, 0.75, 0.25]
    heads, text = column(rows, "train/learning_rate/heads"), column(rows, "train/learning_rate/text_encoder")
    assert [rate / 0.25 for rate in text] == pytest.approx([rate / 0.5 for rate in heads])
    assert heads == pytest.approx([0.5 * share for share in shares])
    assert column(rows, "train/logit_scale") == pytest.approx([1 / 0.05] * 6)
    assert not [name for name in rows[0] if name.endswith("no_decay")]


def test_pairs_are_counted_between_logged_steps(tmp_path):
    """A clock that advances a second per reading: at epoch starts, after validations, at logged steps."""
    with mock.patch("ascl_lightning.training.callbacks.progress.time.perf_counter", side_effect=map(float, count())):
        rows = fit(tmp_path, log_every_n_steps=2)
    # steps 2, 4 and 6 are logged; the 4th is the first of its epoch
    assert [row["step"] for row in rows] == ["1", "3", "5"]
    assert column(rows, "train/pairs_per_second") == [8.0, 4.0, 8.0]


@pytest.mark.parametrize(("logger", "logged_steps"), [(False, 0), (True, 6)])
def test_rates_are_logged_only_with_a_logger(tmp_path, monkeypatch, logger, logged_steps):
    names, original = [], RetrievalModule.log_dict

    def recorded(self, values, **options):
        names.extend(values)
        original(self, values, **options)

    monkeypatch.setattr(RetrievalModule, "log_dict", recorded)
    fit(tmp_path, logger=logger, log_every_n_steps=1)
    assert names.count("train/learning_rate/heads") == logged_steps, "of six steps"
