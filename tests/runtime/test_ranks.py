"""Processes that torchrun or srun has started: what each does, and that none waits for one that has ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.processes import run_ranks

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.distributed import rank
from ascl_lightning.runtime.ranks import from_rank_0, share_of, slurm_ranks, wait_for_ranks

SRUN = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_ID": "2",
}


@given(st.integers(0, 300), st.integers(1, 40))
def test_shares_are_a_partition_into_equal_parts(number: int, world_size: int) -> None:
    shares = [range(number)[share_of(number, rank, world_size)] for rank in range(world_size)]
    assert [item for share in shares for item in share] == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("one", "one"), ("b7,b8", "b7"), ("gpu[03-05,9],cpu1", "gpu03"), ("n[1,4]-ib,m", "n1-ib"), ("a-1.x.y", "a-1.x.y")],
)
def test_the_first_node_of_a_slurm_step_is_the_meeting_point(nodes: str, host: str) -> None:
    assert slurm_ranks({**SRUN, "SLURM_STEP_NODELIST": nodes}) == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": host,
        "MASTER_PORT": "17347",
    }


@pytest.mark.parametrize("change", [{"RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_torchrun_and_single_tasks_need_nothing(change: dict[str, str]) -> None:
    assert slurm_ranks({**SRUN, "SLURM_STEP_NODELIST": "one", **change}) == {}
    assert slurm_ranks({}) == {}


def test_one_process_does_not_wait() -> None:
    wait_for_ranks()
    assert from_rank_0("own") == "own"


def share_or_end(ends: int | None) -> str:
    if rank() == ends:
        return "ended"
    try:
        return from_rank_0(f"of rank {rank()}")
    except UserError as error:
        return str(error)


def test_all_ranks_get_what_rank_0_gives() -> None:
    assert run_ranks(share_or_end, 2, None) == ["of rank 0"] * 2


@pytest.mark.parametrize("ends", [0, 1])
def test_a_rank_that_has_ended_is_noticed_at_once(ends: int) -> None:
    other = run_ranks(share_or_end, 2, ends)[1 - ends]
    assert other.startswith("another process of this command has ended")
