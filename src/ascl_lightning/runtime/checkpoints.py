"""Files that a run goes on from or a model is loaded from: where they lie, and how they are written and read.

Nothing here runs code that a file brings: pickles are read with `weights_only`, and addresses are refused.
"""

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ascl_lightning.errors import UserError

WEIGHTS = "model.safetensors"
LAST = "last-*.ckpt"
"""The newest checkpoints of a run; the star is the step."""
DATA_MODULE = "RetrievalDataModule"
"""Entry of a checkpoint with the state of the data module, named by Lightning after its class."""
_SHARDED = ("meta.pt", ".metadata")  # of Lightning and of torch, written when the shards are


def find_checkpoint(name: str | None, root: Path) -> str | None:
    """The file that `--ckpt_path` stands for.

    Args:
        name: A path, of a checkpoint or of exported weights or their folder; or `best` or `last`, of the newest
            training run; None for no checkpoint.
        root: The `default_root_dir` under which runs lie.

    Returns:
        The path of an existing file (of a folder, if ranks saved shards), or None.

    Raises:
        UserError: If there is no such file, the newest run lacks it, it holds code, or the name is an address.
    """
    if name is None:
        return None
    if "://" in name:
        raise UserError(f"--ckpt_path {name}: addresses are not loaded, download the file and give its path")
    path = Path(name)
    if name in ("best", "last"):
        path = _of_newest_run(name, root)
    elif (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    elif not (path.is_file() or _is_sharded(path)):
        raise UserError(f"--ckpt_path {name}: there is no such file")
    if path.is_file() and path.suffix != ".safetensors":
        _load(path, mmap=True)
    return str(path)


@dataclass(frozen=True)
class Continuation:
    """What an interrupted run goes on from.

    Args:
        checkpoint: The newest checkpoint of the newest run that can be read.
        logged_steps: How many steps it holds, as metrics count them.
        passed_over: What is wrong with newer ones.
        log_versions: What each logger but that of the folder itself called the run, by the name of its class.
    """

    checkpoint: Path
    logged_steps: int
    passed_over: list[str]
    log_versions: dict[str, int | str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.checkpoint.parents[1]

    @classmethod
    def find(cls, root: Path) -> "Continuation | None":
        """Looks under a `default_root_dir`.

        Returns:
            None, if no run has a checkpoint.

        Raises:
            UserError: If the newest run has checkpoints and none of them can be gone on from.
        """
        found = _newest_first(root, "**/checkpoints/*.ckpt")
        faults: list[str] = []
        for path in found:
            if path.parent != found[0].parent:
                continue
            try:
                content = _checked(path)
            except UserError as error:
                faults.append(str(error))
                continue
            if "recovery" in content:
                return cls(path, content["recovery"]["logged_steps"], faults, content.get("log_versions", {}))
            faults.append(f"'{path}' was not saved by `ascl fit`")
        if faults:
            raise UserError(f"no checkpoint of the newest run can be gone on from: {'; '.join(faults)}")
        return None


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Writes a file that appears whole or not at all, whenever this process or the machine ends.

    It is written beside its place, brought to disk, read back from there against its checksums, and renamed.

    Raises:
        UserError: If it cannot be written; what lay there before is as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".*.partial"):
            left.unlink()  # of a run that was killed
        try:
            _write_to_disk(content, partial)
            _check_sums(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's writer raises an error of its own in the place of the system's
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"cannot write the checkpoint '{path}': {cause.strerror}; older ones are untouched") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values, on the CPU.

    Raises:
        UserError: If it is not there, is damaged, or holds anything else.
    """
    _check_sums(path)
    return _load(path)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads exported weights.

    Returns:
        The named tensors, and the state of the data module that the file carries beside them.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return state, dict(json.loads(metadata.get("data", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read the weights file '{path}': {error}") from error


def _checked(path: Path) -> dict[str, Any]:
    """A whole checkpoint, whose tensors stay on disk; of one in shards, what is not in the shards."""
    if path.is_dir():
        if not _is_sharded(path):
            raise UserError(f"the checkpoint '{path}' lacks shards")
        return _load(path / _SHARDED[0])
    _check_sums(path)
    return _load(path, mmap=True)


def _of_newest_run(name: str, root: Path) -> Path:
    """The best or the last checkpoint of the run that saved a checkpoint, or started, after all others."""
    pattern = LAST if name == "last" else "best.ckpt"
    folders = {folder: _last_change(folder) for folder in root.glob("**/checkpoints") if folder.is_dir()}
    if not folders:
        raise UserError(f"--ckpt_path {name}: no run under '{root}' has one; train with `ascl fit` first")
    newest = max(folders, key=lambda folder: folders[folder])
    found = _newest_first(newest, pattern)
    if not found:
        older = next(iter(_newest_first(root, f"**/checkpoints/{pattern}")), None)
        advice = "train with `ascl fit` first" if older is None else f"the newest of an older run is '{older}'"
        raise UserError(f"--ckpt_path {name}: the newest run, '{newest.parent}', has none; {advice}")
    return found[0]


def _last_change(folder: Path) -> int:
    """When a run saved its newest checkpoint, or made the folder, in nanoseconds."""
    saved = [path.stat().st_mtime_ns for path in folder.glob("*.ckpt")]
    return max(saved, default=folder.stat().st_mtime_ns)


def _newest_first(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _is_sharded(path: Path) -> bool:
    return all((path / name).is_file() for name in _SHARDED)


def _write_to_disk(content: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            # so that it is read back from the disk and not from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync(folder: Path) -> None:
    """Brings the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_sums(path: Path) -> None:
    """Compares every record with its checksum, which `torch.load` does not do."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except FileNotFoundError:
        raise UserError(f"the checkpoint '{path}' is not there") from None
    except PermissionError as error:
        raise UserError(f"the checkpoint '{path}' may not be read") from error
    except Exception as error:  # damaged ones raise nearly any error
        raise UserError(f"the checkpoint '{path}' is damaged, or none: {error}") from error
    if bad is not None:
        raise UserError(f"the checkpoint '{path}' is damaged: {bad} is not what was written")


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' is damaged, or holds more than tensors and plain values, and is not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint '{path}' is damaged, or none: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is no checkpoint: it holds a {type(content).__name__}")
    return content
