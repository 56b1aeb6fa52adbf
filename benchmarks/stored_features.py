"""Training on extracted features: seconds per epoch, and memory by data size."""

import contextlib
import io
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from lightning.pytorch import Callback, Trainer
from plain import give_back_memory, random_features

from ascl_lightning.cli import AsclCLI
from ascl_lightning.data.batch import Features
from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import ExtractedFeatures
from ascl_lightning.data.stored_features import SHARD_ROWS, Manifest, TextRows, write_shard
from ascl_lightning.losses import InfoNCE
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.tuning import Tuning
from ascl_lightning.models.towers.word_transformer import WordTransformer
from ascl_lightning.training.module import RetrievalModule

CONFIG = Path(__file__).parents[1] / "configs" / "flickr8k_paper.yaml"
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
PLAIN_INFO_NCE = (
    "--data.source ExtractedFeatures --data.positives [] --model.word_features null --model.loss InfoNCE "
    "--model.loss.temperature 0.05 --model.loss.learn_temperature false --model.similarity.local_weight 0 "
    "--model.similarity.global_fusion none --model.similarity.text_gate false --model.similarity.embed_dim 1024 "
    "--model.optimizer.lr 2e-3 --data.batch_size 1024"
)
"""Flags of plain InfoNCE, for features that `ascl extract` wrote."""
REGIONS, WIDTH, WORDS, WORD_WIDTH = 8, 512, 12, 128


class EpochClock(Callback):
    """Seconds of the training batches of each epoch, and seconds before the first batch."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.before = 0.0
        self.epochs: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.before = self.before or time.perf_counter() - self._last
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.epochs.append(time.perf_counter() - self._last)


def fit_plain_info_nce(features: Path, epochs: int) -> EpochClock:
    """Runs `ascl fit` with the flags of plain InfoNCE, and times it."""
    clock = EpochClock()

    class TimedCLI(AsclCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(clock)
            return trainer

    with tempfile.TemporaryDirectory() as runs:
        quiet = f"--trainer.enable_progress_bar false --trainer.default_root_dir {runs}"
        length = f"--trainer.max_epochs {epochs} --trainer.check_val_every_n_epoch {epochs}"
        flags = f"fit --config {CONFIG} --data.root {features} {PLAIN_INFO_NCE} {length} {quiet}".split()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            TimedCLI(flags)
    return clock


class MemoryGauge(Callback):
    """Records the peak memory of this process and its workers, in MiB, without memory-mapped files (Linux)."""

    def __init__(self) -> None:
        self.peak = 0.0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % 8 == 0:
            self.peak = max(self.peak, own_memory())


def own_memory() -> float:
    """Memory of this process and its workers, in MiB, without memory-mapped files; shared memory counts once."""
    me = psutil.Process()
    total = 0
    for process in (me, *me.children()):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon"))
    return total / 1024


def memory_of_an_epoch(folder: Path, num_images: int, num_workers: int) -> float:
    """By how many MiB memory grows in an epoch over `num_images` images."""
    model = RegionEncoder(REGIONS, WIDTH), WordTransformer(64, width=WORD_WIDTH, tuning=Tuning(frozen=True))
    similarity = FusedSimilarity(16, num_heads=1, local_weight=0.5, global_fusion="none")
    datamodule = RetrievalDataModule(
        ExtractedFeatures(),
        str(folder / str(num_images)),
        captions_per_image=1,
        num_workers=num_workers,
        image_spec=model[0].spec,
        text_spec=model[1].spec,
    )
    gauge = MemoryGauge()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[gauge],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    give_back_memory()
    before = own_memory()
    trainer.fit(RetrievalModule(*model, similarity, InfoNCE()), datamodule)
    return gauge.peak - before


def write_features(folder: Path, num_images: int) -> int:
    """Writes made-up features in the format of `ascl extract`, two captions per image; returns their bytes."""
    root = folder / str(num_images)
    for split, size in (("train", num_images), ("val", 8)):
        sizes = {"images": (size, REGIONS, WIDTH), "texts": (2 * size, WORDS, WORD_WIDTH)}
        for kind, (rows, num_tokens, width) in sizes.items():
            manifest = Manifest("made up", "made up", rows)
            manifest.write(root / split / kind)
            part = random_features(SHARD_ROWS, num_tokens, num_tokens, width, seed=0)
            for number in range(manifest.num_shards):
                size_of_shard = len(manifest.shard_rows(number))
                fields = (part.pooled, part.tokens, part.mask)
                whole = Features(*(field[:size_of_shard] for field in fields))
                write_shard(root / split / kind, number, [whole], "float16")
        none = np.zeros((2 * size, 0), np.int64)
        TextRows(np.arange(2 * size), none, none, none).save(root / split / "texts" / "rows")
        lines = ({"image": str(i), "captions": [f"photo {i} of a dog", f"a dog runs {i}"]} for i in range(size))
        (root / split / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sum(path.stat().st_size for path in root.rglob("*.npy"))
