"""The lock of a folder that one process may write at a time."""

from pathlib import Path

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import UnwritableError
from ascl_lightning.runtime.locks import take_lock

_LOCK = "lock"


def lock_for_writing(folder: Path) -> int:
    """Creates a folder of a gallery, and locks it.

    Args:
        folder: The folder.

    Returns:
        The descriptor of the lock. Closing it, or the end of the process, releases the lock.

    Raises:
        UserError: If another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder / _LOCK)
    except OSError as error:
        raise UnwritableError.of(folder, error) from error
    if lock is None:
        raise UserError(f"another process is writing the gallery '{folder}': wait until it ends, or stop it")
    return lock
