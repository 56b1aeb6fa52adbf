"""Processes of one command that torchrun or srun has started: how they join, wait for each other and share values."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.distributed import world_size

_PATIENCE = timedelta(days=30)
"""Ranks may work for long before they meet. A rank that has ended is noticed at once, as its connection is closed."""
_FIRST_PORT, _PORTS = 15000, 10000
_FIRST_HOST = re.compile(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?")


def join_ranks() -> int | None:
    """Joins the processes of this command, through gloo.

    Returns:
        The number of this process on its machine; None if torchrun or srun has not started several.
    """
    os.environ.update(slurm_ranks(os.environ))
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    with _lost_ranks():
        dist.init_process_group("gloo")
    return int(os.environ.get("LOCAL_RANK", "0"))


def slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set, from the variables that srun sets; empty if srun has not started several tasks.

    Example:
        >>> srun = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "31"}
        >>> found = slurm_ranks({**srun, "SLURM_STEP_NODELIST": "gpu[03-05,9],cpu1"})
        >>> found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_ADDR"], found["MASTER_PORT"]
        ('3', '4', '1', 'gpu03', '15031')
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return {}
    host = _FIRST_HOST.match(environment["SLURM_STEP_NODELIST"])
    assert host is not None
    step = int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", "0"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR", "".join(part or "" for part in host.groups())),
        "MASTER_PORT": environment.get("MASTER_PORT", str(_FIRST_PORT + step % _PORTS)),
    }


def wait_for_ranks() -> None:
    """Returns when all ranks have called it. One process does not wait.

    Raises:
        UserError: If a rank has ended.
    """
    if world_size() > 1:
        with _lost_ranks():
            dist.monitored_barrier(timeout=_PATIENCE)


def from_rank_0(value: Any) -> Any:
    """The value that rank 0 has given, on all ranks; it is pickled. What other ranks give is ignored.

    Raises:
        UserError: If a rank has ended.
    """
    if world_size() == 1:
        return value
    wait_for_ranks()
    values = [value]
    with _lost_ranks():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def share_of(number: int, rank: int, world_size: int) -> slice:
    """Which of some items a rank takes: neighbours, and as many as the other ranks or one more.

    Example:
        >>> [share_of(7, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 7, None)]
    """
    return slice(number * rank // world_size, number * (rank + 1) // world_size)


@contextmanager
def _lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            "another process of this command has ended: see its message, then repeat the command, which continues"
        ) from error
