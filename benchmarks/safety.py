"""The cost of recoverable runs: checkpoint files, seeding, and agreement of ranks in each step.

Writes a checkpoint of 512 MiB to the current folder's disk: ours (flushed to disk, renamed) against Lightning's. Reads
it, against `torch.load`; the ratios come last. Then measures microseconds per step for seeding, and for two processes
to agree on whether to save or stop.
"""

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from plain import measure
from torch import distributed, multiprocessing

from ascl_lightning.runtime.checkpoints import read_checkpoint, write_checkpoint
from ascl_lightning.training.callbacks.keyed_draws import KeyedDraws

MEBIBYTES, STEPS = 512, 2_000


def files(folder: Path) -> None:
    content = {"state_dict": {str(i): torch.randn(1024, 1024) for i in range(MEBIBYTES // 4)}}
    path, stock = folder / "ours.ckpt", folder / "stock.ckpt"
    written = measure(lambda: write_checkpoint(content, path))
    stock_written = measure(lambda: TorchCheckpointIO().save_checkpoint(content, stock))
    read = measure(lambda: read_checkpoint(path))
    stock_read = measure(lambda: torch.load(path, weights_only=True))
    for name, (seconds, memory) in {
        "Lightning writes": stock_written,
        "ours writes": written,
        "torch reads": stock_read,
        "ours reads": read,
    }.items():
        print(f"{name:17} {seconds:.2f} s, {memory:.0f} MiB")
    print(f"ratios            {written[0] / stock_written[0]:.1f} to write, {read[0] / stock_read[0]:.1f} to read")


def seeding() -> float:
    draws, module = KeyedDraws(), Mock(spec=LightningModule, device=torch.device("cpu"))
    trainer = Mock(spec=Trainer, current_epoch=3, global_rank=1)
    begin = time.perf_counter()
    for step in range(STEPS):
        draws.on_train_batch_start(trainer, module, None, step)
    return 1e6 * (time.perf_counter() - begin) / STEPS


def agreement(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    begin = time.perf_counter()
    for _ in range(STEPS):
        distributed.all_reduce(torch.zeros(2, dtype=torch.float64), distributed.ReduceOp.MAX)
    if rank == 0:
        print(f"agreement         {1e6 * (time.perf_counter() - begin) / STEPS:.0f} us a step, two processes")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        files(Path(folder))
    print(f"seeding           {seeding():.0f} us a step")
    multiprocessing.spawn(agreement, (29_617,), nprocs=2)


if __name__ == "__main__":
    main()
