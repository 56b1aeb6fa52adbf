"""Two processes that train together: stopped, killed and hung, they leave no orphan and lose nothing.

Every process here loads data with two workers; dropout, BatchNorm, crops and asymmetry samples are on.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.helpers.datasets import write_karpathy
from tests.helpers.interruptions import batches, interrupt, last, rows
from tests.helpers.ranks import Run, send

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end"),
]

TIMEOUT = 60
SETTINGS = [
    *("--trainer.max_epochs", "4", "--timeout", str(TIMEOUT), "--recovery.steps", "2"),
    *("--data.num_workers", "2", "--data.augment", "true", "--data.eval_batch_size", "2"),
    *("--model.text_encoder.init_args.dropout", "0.2"),
]
# 41 training images: six steps an epoch of three or four images on each of two ranks; 5 for validation, in two batches
# on rank 0 and one on rank 1
IMAGES = {"train": 41, "val": 5}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(root: Path, *arguments: str, **options) -> Run:
    if not (root / "data").exists():
        write_karpathy(root / "data", IMAGES, captions=[2, 3, 1])
    return Run(root, *SETTINGS, *arguments, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    with run(root) as complete:
        assert complete.end() == 0, complete.output.read_text()[-3000:]
    return root


def assert_goes_on(root: Path, whole: Path, lost_rows: int = 0) -> None:
    """Gone on with, the run ends as the one that nothing interrupted: to the last bit, on both ranks."""
    with run(root, "--resume") as resumed:
        assert resumed.end() == 0, resumed.output.read_text()[-3000:]
    for rank in range(2):
        assert batches(root / "seen", rank) == batches(whole / "seen", rank)
    expected, found = rows(whole), rows(root)
    assert found == [row for row in expected if row in found]
    assert len(found) >= len(expected) - lost_rows
    states = [last(of) for of in (whole, root)]
    for state in states:
        for of_callback in state["callbacks"].values():
            of_callback.pop("current_score", None)
            of_callback.pop("files", None)
    assert [key for key in states[0] | states[1] if states[0].get(key) != states[1].get(key)] == []


@pytest.mark.parametrize("whom", ["rank 0, which launched", "rank 1", "both"])
def test_sigterm_to_any_rank_makes_all_save_and_exit_with_143(tmp_path, whole, whom):
    with run(tmp_path) as running:
        pids = [running.until_batch(8).pid(rank) for rank in range(2)]
        assert pids[0] == running.process.pid
        send(signal.SIGTERM, *{"rank 0, which launched": pids[:1], "rank 1": pids[1:], "both": pids}[whom])
        assert running.end() == 143, running.output.read_text()[-3000:]
        assert running.exits() == ["SystemExit(143)"] * 2
        assert "Stopped by SIGTERM, saved" in running.output.read_text()
    assert_goes_on(tmp_path, whole)


def test_ctrl_c_reaches_the_whole_group_and_exits_with_130(tmp_path, whole):
    with run(tmp_path) as running:
        os.killpg(running.until_batch(8).process.pid, signal.SIGINT)
        assert running.end() == 130, running.output.read_text()[-3000:]
        assert running.exits() == ["SystemExit(130)"] * 2
    assert_goes_on(tmp_path, whole)


def test_a_signal_to_one_rank_breaks_a_validation_off_on_both(tmp_path, whole):
    """The validation is repeated, although the ranks' shares of it differ by a batch."""
    interrupted = [*interrupt("on_validation_batch_start", 1), "--trainer.callbacks.rank", "1"]
    with run(tmp_path, *interrupted) as running:
        assert running.end() == 143, running.output.read_text()[-3000:]
        assert running.exits() == ["SystemExit(143)"] * 2
    assert last(tmp_path)["recovery"]["validation_due"] is True
    assert_goes_on(tmp_path, whole)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_other_and_costs_two_steps(tmp_path, whole, rank):
    with run(tmp_path) as running:
        send(signal.SIGKILL, running.until_batch(10).pid(rank))
        assert running.end(TIMEOUT + 10) != 0
    assert last(tmp_path)["global_step"] >= 6
    # a step is logged after its checkpoint is saved
    assert_goes_on(tmp_path, whole, lost_rows=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_hung_rank_ends_the_run_within_the_timeout(tmp_path, rank):
    with run(tmp_path, "--trainer.max_epochs", "10000") as running:
        stopped = running.until_batch(8).pid(rank)
        send(signal.SIGSTOP, stopped)
        begin = time.monotonic()
        assert running.end(TIMEOUT + 10) != 0
        assert time.monotonic() - begin < TIMEOUT + 10
        assert not Path(f"/proc/{stopped}").exists()


def test_under_torchrun_the_agent_may_be_told(tmp_path, whole):
    """It ends its workers by SIGTERM, which save; its own exit code is 1."""
    with run(tmp_path, launch=[*TORCHRUN, "-m", "ascl_lightning"]) as running:
        pids = [running.until_batch(8).pid(rank) for rank in range(2)]
        send(signal.SIGTERM, running.process.pid)
        assert running.end() == 1
        assert running.exits() == ["SystemExit(143)"] * 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert_goes_on(tmp_path, whole)


def test_workers_of_torchrun_end_with_a_killed_agent(tmp_path):
    with run(tmp_path, "--trainer.max_epochs", "10000", launch=[*TORCHRUN, "-m", "ascl_lightning"]) as running:
        pids = [running.until_batch(4).pid(rank) for rank in range(2)]
        running.process.kill()
        running.end()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("ranks", ["both", "rank 1"])
def test_a_mistake_of_the_user_is_one_line_and_code_2(tmp_path, ranks):
    """Whether all ranks find it, or one while the other waits for it."""
    faulty = [
        "--trainer.callbacks+=tests.helpers.interruptions.Mistake",
        "--trainer.callbacks.everywhere",
        str(ranks == "both"),
    ]
    with run(tmp_path, *faulty, "--timeout", "300") as running:
        assert running.end(300) == 2, running.output.read_text()[-3000:]
    assert running.output.read_text().count("ascl: error: ") == 1
    assert "Traceback" not in running.output.read_text()


def test_inside_an_epoch_the_number_of_ranks_must_stay(tmp_path):
    with run(tmp_path) as running:
        send(signal.SIGTERM, running.until_batch(8).pid(0))
        assert running.end() == 143
    with run(tmp_path, "--resume", ranks=1) as resumed:
        assert resumed.end() == 2
        assert "inside an epoch of 6 batches on 2 processes; here it would be 11 on 1" in resumed.output.read_text()
