"""A stand-in for the processes of an experiment's commands."""

import os
import subprocess
from typing import Any


def finished_commands(ran: list[tuple[str, ...]]) -> type["subprocess.Popen[bytes]"]:
    """A class in the place of `subprocess.Popen`, whose processes have ended when they start.

    Args:
        ran: Gets the arguments of each `ascl` command; one with `--fail` ends with code 2.
    """

    class Finished(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], *, stdout: Any, pass_fds: tuple[int, ...], **_: object) -> None:
            ran.append(tuple(command[3:]))
            os.fstat(pass_fds[0])
            self._failed = "--fail" in command
            self._child_created = False
            stdout.write(b"ascl: error: no such thing\n" if self._failed else b"fine\n")

        def poll(self) -> int:
            return self.wait()

        def wait(self, timeout: float | None = None) -> int:
            return 2 if self._failed else 0

    return Finished
