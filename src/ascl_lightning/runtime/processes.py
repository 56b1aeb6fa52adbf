"""Stop signals, and processes that end together: ranks, launchers and workers."""

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
"""Exit code after a `UserError`."""
_SECONDS_FOR_RANK_0 = 5
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


class StopSignals:
    """Records SIGTERM, SIGINT and SIGHUP, so that the run can save before it stops.

    While `deferred` is false, there is nothing to save: a signal ends the process at once with exit code 128 + its
    number. A second SIGINT always does. Under `nohup`, SIGHUP stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal; 0 if none came."""
        self.deferred = False
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def listen(self) -> None:
        """Installs the signal handlers; has no effect outside the main thread."""
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
        """Discards further output: an error from writing to a closed terminal would prevent saving."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


def leave_stopping_to_the_run(_worker: int) -> None:
    """Makes a data worker ignore stop signals, so that a signal to the process group lets the run save first.

    On Linux, SIGTERM from the parent process still ends the worker; on other systems, any SIGTERM does.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # blocked in all threads, so that one thread can check the sender
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by_parent, daemon=True).start()


def _end_when_told_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def end_with_launcher() -> None:
    """Ends this process when its launcher ends for any reason; called first by every process of a run."""
    if "LOCAL_RANK" not in os.environ:
        os.environ[_LAUNCHER] = str(os.getpid())
    elif (_launched() or "TORCHELASTIC_RUN_ID" in os.environ) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


class RankWatch(threading.Thread):
    """Ends the launching process with code 2 as soon as one of its ranks exits after a `UserError`.

    Lightning would kill it some seconds later, with another exit code. Meanwhile it may wait in a collective, which no
    exception interrupts.

    Args:
        launcher: Lightning's launcher; `procs` are the processes that it started.
    """

    def __init__(self, launcher: Any) -> None:
        super().__init__(daemon=True, name="rank-watch")
        self._launcher = launcher

    def run(self) -> None:
        """Polls the processes ten times per second."""
        while all(process.poll() != USER_ERROR for process in self._launcher.procs):
            time.sleep(0.1)
        sys.stdout.flush()
        os._exit(USER_ERROR)

    def end_ranks(self) -> None:
        """Kills the processes, and clears the list so that Lightning does not react."""
        ranks = list(self._launcher.procs)
        self._launcher.procs.clear()
        for process in ranks:
            process.kill()

    @staticmethod
    def current() -> "RankWatch | None":
        """The watch of this process; None if it launched no ranks."""
        return next((thread for thread in threading.enumerate() if isinstance(thread, RankWatch)), None)


def report_once(message: str) -> None:
    """Prints an error to stderr on one rank only.

    Rank 0 kills the other ranks and prints. Another rank first waits to be killed; if rank 0 has no error, this rank
    prints and exits at once, and its exit code makes rank 0 exit.

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
    """Called by a process that fails: kills its launcher if that does not exit within some seconds.

    A launcher exits by itself when one of its processes has ended, unless it is stopped or hangs. In the launcher, this
    waits a moment instead: if a rank reports a `UserError`, `RankWatch` ends the launcher.
    """
    if _launched():
        command = ["sh", "-c", f"sleep {seconds}; kill -KILL {os.getppid()}"]
        null = subprocess.DEVNULL
        subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    elif RankWatch.current() is not None:
        time.sleep(1)


def _launched() -> bool:
    """Whether the parent is a process of the same run rather than a shell or scheduler."""
    return "LOCAL_RANK" in os.environ and os.environ.get(_LAUNCHER) == str(os.getppid())
