"""The processes of a run: signals that ask it to stop, and launchers that end or hang."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([] if _HANGUP is None else [_HANGUP]))
_LAUNCHER = "ASCL_LAUNCHER_PID"
USER_ERROR = 2
"""Exit code after a mistake of the user."""
_SECONDS_FOR_RANK_0 = 5
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


class StopSignals:
    """Notes SIGTERM, SIGINT and SIGHUP, so that the run can stop at the next place where it can save.

    While `deferred` is false there is nothing to save: a signal then ends the process at once, with exit code 128 + its
    number. A second SIGINT always does. Under `nohup`, SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal that came; 0: none."""
        self.deferred = False
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def listen(self) -> None:
        """Takes the place of whatever handled the signals; without effect outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for number in STOP_SIGNALS:
            if number == _HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            before = signal.signal(number, self._note)
            if before != self._note:
                self._before[number] = before

    def restore(self) -> None:
        """Restores the previous signal handlers."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()
        self.deferred = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.received:
            os._exit(128 + number)
        self.received = self.received or number
        if number == _HANGUP:
            self._leave_terminals()
        if not self.deferred:
            raise SystemExit(128 + number)

    def _leave_terminals(self) -> None:
        """Discards further output: writing to a closed terminal is an error, which would keep the run from saving."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def leave_stopping_to_the_run(_worker: int) -> None:
    """For processes that load data: a signal to the whole group must not end them before the run has saved.

    Only the process that they load for ends them, as it does when it is over (Linux; elsewhere SIGTERM ends them).
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # blocked in all threads, so that one of them can ask who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by_parent, daemon=True).start()


def _end_when_told_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def end_with_launcher() -> None:
    """Called first by every process of a run: those that another launched end when that one ends, in whatever way."""
    if "LOCAL_RANK" not in os.environ:
        os.environ[_LAUNCHER] = str(os.getpid())
    elif (_launched() or "TORCHELASTIC_RUN_ID" in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


class RankWatch(threading.Thread):
    """Ends the process that launched others as soon as one of them ended with a mistake of the user.

    Lightning would kill it after some seconds, with another exit code; this process may wait for the others in a
    collective, which no exception ends.

    Args:
        launcher: Lightning's, whose `procs` are the processes.
    """

    def __init__(self, launcher: Any) -> None:
        super().__init__(daemon=True, name="rank-watch")
        self._launcher = launcher

    def run(self) -> None:
        """Looks at the processes ten times a second."""
        while all(process.poll() != USER_ERROR for process in self._launcher.procs):
            time.sleep(0.1)
        sys.stdout.flush()
        os._exit(USER_ERROR)

    def end_ranks(self) -> None:
        """Kills the processes; Lightning, which looks at the same list, no longer sees that they end."""
        ranks = list(self._launcher.procs)
        self._launcher.procs.clear()
        for process in ranks:
            process.kill()

    @staticmethod
    def current() -> "RankWatch | None":
        """That of this process, if it launched others."""
        return next((thread for thread in threading.enumerate() if isinstance(thread, RankWatch)), None)


def report_once(message: str) -> None:
    """Prints an error to stderr, on the first of the ranks that have it.

    Rank 0 ends the others and prints. Another rank waits for that: if rank 0 has no error, this rank prints, and leaves
    without waiting for the others; its exit code ends rank 0.

    Args:
        message: The line.
    """
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    watch = RankWatch.current()
    if watch is not None:
        watch.end_ranks()
    if not first:
        time.sleep(_SECONDS_FOR_RANK_0)
    print(message, file=sys.stderr, flush=True)
    if not first:
        os._exit(USER_ERROR)


def end_hung_launcher(seconds: int = 3) -> None:
    """Called by a process that fails: kills the one that launched it if that does not end by itself.

    A launcher notices that a process it launched has ended, unless it is stopped or hangs. The launcher itself waits
    for a moment: if it failed because of a rank that reports a mistake of the user, `RankWatch` ends it.
    """
    if _launched():
        command = ["sh", "-c", f"sleep {seconds}; kill -KILL {os.getppid()}"]
        null = subprocess.DEVNULL
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    elif RankWatch.current() is not None:
        time.sleep(1)


def _launched() -> bool:
    """Whether the parent is a process of the same run, and no shell, agent or scheduler."""
    return "LOCAL_RANK" in os.environ and os.environ.get(_LAUNCHER) == str(os.getppid())
