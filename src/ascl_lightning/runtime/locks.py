"""Locks between processes, which the kernel releases when their holder ends."""

import fcntl
import os
from pathlib import Path


def take_lock(path: Path) -> int | None:
    """Locks a file, which is created in an existing folder. Closing the descriptor releases the lock.

    Args:
        path: The file. It stays when the lock is released, as removing it would let two processes hold it.

    Returns:
        The descriptor of the locked file; None if another process, or another descriptor of this one, holds the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
