"""Runs a function in several processes that see each other through gloo."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """What a function of a module gives in each of some processes, called with `args`; the result must be picklable."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run, (world_size, folder, function, args), nprocs=world_size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _run(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(function(*args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
