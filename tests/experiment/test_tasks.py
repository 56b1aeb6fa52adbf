import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tests.helpers.finished_commands import finished_commands
from tests.helpers.processes import run_forked

from ascl_lightning.experiment import tasks
from ascl_lightning.experiment.tasks import Task, Workers, claim

HOLDER = """
import sys, time
from pathlib import Path
from ascl_lightning.experiment.tasks import claim
with claim(Path(sys.argv[1])) as claimed:
    print(claimed is not None, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def commands(monkeypatch):
    """The commands that ran, in order; those whose first flag is `--fail` fail."""
    ran = []
    monkeypatch.setattr(tasks.subprocess, "Popen", finished_commands(ran))
    monkeypatch.setattr(tasks, "_SECONDS_BETWEEN_LOOKS", 0.01)
    return ran


def run_all(*given, jobs=1):
    workers = Workers(given, jobs, {}, "a machine")
    workers.run()
    return {task.name: reason for task, reason in workers.failed.items()}


def test_a_folder_is_claimed_once(tmp_path):
    with claim(tmp_path / "new") as first:
        assert first is not None
        with claim(tmp_path / "new") as second:
            assert second is None
    with claim(tmp_path / "new") as third:
        assert third is not None


def test_the_claim_of_a_killed_process_ends(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        with claim(tmp_path) as claimed:
            assert claimed is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with claim(tmp_path) as claimed:
            assert claimed is not None
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_a_claim_lasts_as_long_as_the_command_that_it_started(tmp_path):
    with claim(tmp_path) as claimed:
        command = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(claimed,))
    with claim(tmp_path) as other:
        assert other is None
    command.communicate()
    with claim(tmp_path) as other:
        assert other is not None


def test_commands_run_in_order_and_once(tmp_path, commands):
    extraction = Task("features", tmp_path / "features", (("extract",),))
    cells = [Task(str(seed), tmp_path / str(seed), (("fit",), ("validate", "x")), extraction) for seed in (0, 1)]

    assert run_all(*cells) == {}
    assert commands == [("extract",), ("fit",), ("validate", "x"), ("fit",), ("validate", "x")]
    assert cells[0].record["machine"] == "a machine"
    assert (tmp_path / "0" / "log.txt").read_text() == "$ ascl fit\nfine\n$ ascl validate x\nfine\n"

    assert run_all(*cells) == {}
    assert len(commands) == 5


def test_an_interrupted_cell_goes_on_where_it_was(tmp_path, commands):
    """Trained, but killed while it validated."""
    cell = Task("cell", tmp_path, (("fit",), ("validate",)), removed=("fit/*/checkpoints",))
    for folder in ("validate/version_0", "fit/version_0/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "fit.done").touch()

    assert run_all(cell) == {}
    assert commands == [("validate",)]
    assert not (tmp_path / "validate").exists()
    assert (tmp_path / "fit" / "version_0").is_dir()
    assert not (tmp_path / "fit" / "version_0" / "checkpoints").exists()


def test_a_failed_task_is_named_and_others_run(tmp_path, commands, capsys):
    broken = Task("features", tmp_path / "features", (("extract", "--fail"),))
    waiting = Task("waiting", tmp_path / "waiting", (("fit",),), broken)
    free = Task("free", tmp_path / "free", (("fit", "--free"),))

    failed = run_all(waiting, free)

    assert commands == [("extract", "--fail"), ("fit", "--free")]
    log = tmp_path / "features" / "log.txt"
    reason = f"`ascl extract` ended with code 2: ascl: error: no such thing ({log})"
    assert failed == {"features": reason, "waiting": "needs features"}
    assert f"features: failed: {reason}" in capsys.readouterr().out
    assert (free.is_done, broken.is_done) == (True, False)


def test_processes_share_the_work(tmp_path, commands):
    """Two processes with two jobs each: every command runs once, and both end when all is done."""
    cells = [Task(str(number), tmp_path / str(number), (("fit", str(number)),)) for number in range(30)]
    ends = [threading.Thread(target=run_all, args=cells, kwargs={"jobs": 2}) for _ in range(2)]
    for end in ends:
        end.start()
    for end in ends:
        end.join(timeout=60)

    assert sorted(commands) == sorted(("fit", str(number)) for number in range(30))
    assert all(cell.is_done for cell in cells)


def test_the_task_of_a_process_that_died_is_run_here(tmp_path, commands):
    cell = Task("cell", tmp_path / "cell", (("fit",),))
    with claim(cell.folder):
        other = threading.Thread(target=run_all, args=(cell,))
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        assert commands == []
    other.join(timeout=60)

    assert commands == [("fit",)]


def test_an_unexpected_error_ends_all_jobs(tmp_path, commands):
    blocked = Task("blocked", tmp_path / "file" / "cell", (("fit",),))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        run_all(blocked, jobs=2)


SLEEPER = """#!/bin/sh
trap 'echo saved; exit 143' TERM
echo started
sleep 600 & wait
"""


def test_a_signal_ends_the_running_commands_too(tmp_path, monkeypatch):
    """They save first, and nothing else starts."""
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(SLEEPER)
    sleeper.chmod(0o755)
    monkeypatch.setattr(tasks.sys, "executable", str(sleeper))
    monkeypatch.setattr(tasks, "_SECONDS_BETWEEN_LOOKS", 0.01)
    cells = [Task(name, tmp_path / name, (("fit",),)) for name in ("first", "second")]

    def stop():
        while "started" not in _log(cells[0]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def experiment():
        threading.Thread(target=stop).start()
        run_all(*cells)

    ended = run_forked(experiment)

    assert (ended.returncode, ended.stdout) == (143, "first: stopped\n")
    assert "saved" in _log(cells[0])
    assert not cells[1].folder.exists()


def _log(task):
    log = task.folder / "log.txt"
    return log.read_text() if log.exists() else ""


def test_a_record_is_written_whole(tmp_path, commands):
    cell = Task("cell", tmp_path, (("fit",),))
    assert not cell.is_done
    run_all(cell)
    assert json.loads((tmp_path / "done.json").read_text()).keys() == {"seconds", "machine"}
