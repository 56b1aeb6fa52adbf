"""Signals and exits of processes, tested in subprocesses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 30


def started(script: str, **options) -> subprocess.Popen:
    """Starts a script and waits for its first line of output."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"} | {"PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, **options)
    assert process.stdout.readline() == b"ready\n"
    return process


def gone(pid: int, seconds: float = PATIENCE) -> bool:
    """Whether a process ends in time; zombies count as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


WORK = """
import time
from ascl_lightning.runtime.processes import StopSignals
signals = StopSignals()
signals.listen()
signals.deferred = {deferred}
print("ready", flush=True)
for _ in range(600):
    if signals.received and {polite}:
        print("saved", signals.received, flush=True)
        raise SystemExit(128 + signals.received)
    time.sleep(0.1)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_deferred_signal_is_only_recorded(number, code):
    process = started(WORK.format(deferred=True, polite=True))
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    assert process.stdout.read() == f"saved {int(number)}\n".encode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_without_anything_to_save_a_signal_ends_the_process(number, code):
    process = started(WORK.format(deferred=False, polite=False))
    process.send_signal(number)
    assert process.wait(PATIENCE) == code


def test_a_second_interrupt_ends_at_once_and_a_second_term_does_not():
    process = started(WORK.format(deferred=True, polite=False))
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.wait()
    process = started(WORK.format(deferred=True, polite=False))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130


def test_under_nohup_a_closed_terminal_does_not_stop_the_run():
    process = started(
        f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WORK}".format(deferred=True, polite=True)
    )
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert process.wait(PATIENCE) == 143


TERMINAL = """
import sys, time
from pathlib import Path
from ascl_lightning.runtime.processes import StopSignals
signals = StopSignals()
signals.listen()
signals.deferred = True
print("ready", flush=True)
while not signals.received:
    time.sleep(0.05)
time.sleep(0.5)
print("to nobody", flush=True)
print("to nobody", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text("saved")
"""


def test_a_run_whose_terminal_is_closed_still_saves(tmp_path):
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", sys.executable, "-c", TERMINAL, str(tmp_path / "saved")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 100).startswith(b"ready")
        os.close(ours)
        assert process.wait(PATIENCE) == 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_handlers_are_put_back(monkeypatch):
    from ascl_lightning.runtime.processes import StopSignals

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signals = StopSignals()
    for _ in range(2):
        signals.listen()
    assert signal.getsignal(signal.SIGTERM) == signals._note
    signals.restore()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


WORKERS = """
import multiprocessing, os, time
from ascl_lightning.runtime.processes import leave_stopping_to_the_run

def work():
    leave_stopping_to_the_run(0)
    ready.set()
    time.sleep(60)

context = multiprocessing.get_context("fork")
ready = context.Event()
worker = context.Process(target=work, daemon=True)
worker.start()
ready.wait()
print("ready", flush=True)
print(worker.pid, flush=True)
input()
worker.terminate()
worker.join({patience})
print(worker.exitcode, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SIGTERM ends what loads data")
def test_a_worker_is_only_ended_by_its_parent():
    process = started(WORKERS.format(patience=PATIENCE), stdin=subprocess.PIPE)
    worker = int(process.stdout.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(worker, number)
    assert not gone(worker, seconds=1)
    process.communicate(b"\n", timeout=PATIENCE)
    assert process.returncode == 0
    assert gone(worker)


LAUNCHER = """
import os, subprocess, sys, time
from ascl_lightning.runtime.processes import end_hung_launcher, end_with_launcher
end_with_launcher()
if "LOCAL_RANK" in os.environ:
    print("ready", flush=True)
    print(os.getpid(), flush=True)
    if {fails}:
        time.sleep(1)
        end_hung_launcher(seconds=1)
        sys.exit(1)
    time.sleep(60)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[1]], env=os.environ | {{"LOCAL_RANK": "1"}})
time.sleep(60)
"""


def launched(fails: bool) -> tuple[subprocess.Popen, int]:
    """A launcher, and the process that it launched."""
    script = LAUNCHER.format(fails=fails)
    process = started(f"import sys; sys.argv = ['', {script!r}]; exec({script!r})")
    return process, int(process.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end")
def test_a_launched_process_ends_with_its_launcher():
    launcher, child = launched(fails=False)
    launcher.kill()
    launcher.wait()
    assert gone(child)


def test_a_failing_process_kills_a_stopped_launcher():
    launcher, child = launched(fails=True)
    launcher.send_signal(signal.SIGSTOP)
    assert launcher.wait(PATIENCE) == -signal.SIGKILL
    assert gone(child)


def test_a_failing_rank_does_not_kill_the_shell_that_started_it(monkeypatch):
    """Ranks started by `torchrun`, a scheduler or a user: the parent is not a process of the run."""
    # earlier tests may have set the variables of a run in this process
    monkeypatch.delenv("ASCL_LAUNCHER_PID", raising=False)
    script = """
import os, sys
os.environ["LOCAL_RANK"] = "1"
from ascl_lightning.runtime.processes import end_hung_launcher, end_with_launcher
end_with_launcher()
end_hung_launcher(seconds=0)
print("ready", flush=True)
"""
    process = started(script)
    assert process.wait(PATIENCE) == 0
    time.sleep(0.5)  # enough to be killed


RANKS = """
import os, subprocess, sys, time
from types import SimpleNamespace
from ascl_lightning.runtime import processes
rank = subprocess.Popen([sys.executable, "-c", "{rank}"])
processes.RankWatch(SimpleNamespace(procs=[rank])).start()
print("ready", flush=True)
{then}
"""


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (0, 7), (1, 7)])
def test_a_launcher_exits_as_soon_as_a_rank_reports_a_user_error(code, expected):
    seconds = 60 if code == 2 else 1
    process = started(RANKS.format(rank=f"raise SystemExit({code})", then=f"time.sleep({seconds}); sys.exit(7)"))
    assert process.wait(PATIENCE) == expected


def test_rank_0_ends_the_others_before_it_reports():
    then = "processes.report_once('a mistake'); sys.exit(rank.wait())"
    process = started(RANKS.format(rank="import time; time.sleep(60)", then=then), stderr=subprocess.PIPE)
    assert process.communicate(timeout=PATIENCE)[1] == b"a mistake\n"
    assert process.returncode == 256 - signal.SIGKILL


def test_another_rank_reports_alone_if_rank_0_has_no_error():
    """It exits without waiting for resources that other ranks hold."""
    script = """
import os, threading, time
from ascl_lightning.runtime import processes
os.environ["LOCAL_RANK"] = "1"
processes._SECONDS_FOR_RANK_0 = 0.5
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
processes.report_once("a mistake")
"""
    process = started(script, stderr=subprocess.PIPE)
    assert process.communicate(timeout=PATIENCE)[1] == b"a mistake\n"
    assert process.returncode == 2
