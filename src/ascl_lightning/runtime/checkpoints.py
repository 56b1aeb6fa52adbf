"""Finds, reads and writes checkpoints and exported weights.

Files cannot run code: pickles are read with `weights_only`, and URLs are rejected.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ascl_lightning.errors import UserError, first_line
from ascl_lightning.runtime.files import atomic_file, remove_partials

WEIGHTS = "model.safetensors"
LAST = "last-*.ckpt"
"""Pattern of the newest checkpoints of a run; the star is the step."""
DATA_MODULE = "RetrievalDataModule"
"""Key of the data module's state in a checkpoint: Lightning uses the class name."""
_GIVE = "give a .ckpt file that `ascl fit` wrote, or the folder of its exported weights"
_SHARDED = ("meta.pt", ".metadata")  # by Lightning and torch, written after the shards


def find_checkpoint(name: str | None, root: Path) -> str | None:
    """Resolves `--ckpt_path`.

    Args:
        name: Path of a checkpoint, of exported weights or of their folder; or `best` or `last` for that of the newest
            training run; None for no checkpoint.
        root: The `default_root_dir` that holds the runs.

    Returns:
        The path of an existing file (of a folder for a sharded checkpoint), or None.

    Raises:
        UserError: If there is no such file, the newest run lacks it, it holds code, or the name is a URL.
    """
    if name is None:
        return None
    if "://" in name:
        raise UserError(f"--ckpt_path {name}: addresses are not loaded; download the file and give its path")
    path = Path(name)
    if name in ("best", "last"):
        path = _of_newest_run(name, root)
    elif (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    elif path.is_dir() and not _is_sharded(path):
        raise UserError(f"--ckpt_path {name}: the folder holds neither {WEIGHTS} nor all shards of a checkpoint")
    elif not path.exists():
        raise UserError(f"--ckpt_path {name}: there is no such file")
    if not path.is_dir():
        _require_weights_in(path)
    return str(path)


@dataclass(frozen=True)
class Continuation:
    """The checkpoint from which to resume an interrupted run.

    Args:
        checkpoint: The newest readable checkpoint of the newest run.
        logged_steps: Number of logged steps that it covers.
        passed_over: Faults of newer checkpoints.
        log_versions: Version of the run in each logger other than CSV, by class name of the logger.
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
        """Searches the runs below a `default_root_dir`.

        Returns:
            None if no run has a checkpoint.

        Raises:
            UserError: If none of the newest run's checkpoints can be resumed from.
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
            raise UserError(f"the newest run has no checkpoint to resume from: {'; '.join(faults)}")
        return None


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically.

    Raises:
        UnwritableError: If it cannot be written; an existing file is unchanged.
    """
    remove_partials(path.parent)
    with atomic_file(path) as file:
        torch.save(content, file)


def require_weights(content: Mapping[str, Any], path: Path) -> None:
    """Checks that a file holds usable weights.

    Args:
        content: Content of a checkpoint, or exported weights under `state_dict`.
        path: The file, for messages.

    Raises:
        UserError: If there are no weights, no vocabulary, or weights that are not finite.
    """
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not state:
        if content and all(isinstance(value, Tensor) for value in content.values()):
            raise UserError(f"'{path}' is a bare state_dict, without the vocabulary that the weights need; {_GIVE}")
        raise UserError(f"'{path}' holds no weights; {_GIVE}")
    bad = non_finite(state)
    if bad:
        raise UserError(
            f"'{path}' holds weights that are not finite ({bad}): the training had diverged; give an earlier checkpoint"
        )


def non_finite(state: Mapping[str, Tensor]) -> str:
    """Number of tensors with NaN or infinity, and the name of the first; "" if there are none."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return f"{len(bad)} of {len(state)} tensors, such as {bad[0]}" if bad else ""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a file of tensors and plain values, on the CPU.

    Raises:
        UserError: If it is missing, damaged, or holds anything else.
    """
    _check_sums(path)
    return _load(path)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads exported weights.

    Returns:
        The named tensors, and the data module's state from the file's metadata.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return state, dict(json.loads(metadata.get("data", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"the weights file '{path}' is damaged or cannot be read: {error}") from error


def _require_weights_in(path: Path) -> None:
    if not path.is_file():  # opening a named pipe would block
        raise UserError(f"--ckpt_path {path}: not a regular file")
    if path.suffix == ".safetensors":
        require_weights({"state_dict": read_weights(path)[0]}, path)
    else:
        require_weights(_load(path, mmap=True), path)


def _checked(path: Path) -> dict[str, Any]:
    """A checkpoint with memory-mapped tensors; for a sharded checkpoint, only its unsharded content."""
    if path.is_dir():
        if not _is_sharded(path):
            raise UserError(f"the checkpoint '{path}' lacks shards")
        return _load(path / _SHARDED[0])
    _check_sums(path)
    content = _load(path, mmap=True)
    require_weights(content, path)
    return content


def _of_newest_run(name: str, root: Path) -> Path:
    """The best or last checkpoint of the newest run: the one that last saved a checkpoint, or started."""
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
    """Time of a run's newest checkpoint, or of its empty folder, in nanoseconds."""
    saved = [path.stat().st_mtime_ns for path in folder.glob("*.ckpt")]
    return max(saved, default=folder.stat().st_mtime_ns)


def _newest_first(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _is_sharded(path: Path) -> bool:
    return all((path / name).is_file() for name in _SHARDED)


def _check_sums(path: Path) -> None:
    """Verifies the checksums of all records, which `torch.load` does not."""
    _require_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # damaged archives raise nearly any error
        raise UserError(f"the checkpoint '{path}' is damaged: {error}") from error
    if bad is not None:
        raise UserError(f"the checkpoint '{path}' is damaged: the checksum of {bad} does not match")


def _require_archive(path: Path) -> None:
    """Checks that a file is a ZIP archive, as `torch.save` writes."""
    is_archive = False
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
            with suppress(zipfile.BadZipFile):
                is_archive = zipfile.is_zipfile(file)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint '{path}'") from None
    except OSError as error:
        raise UserError(f"the checkpoint '{path}' cannot be read: {error.strerror}") from error
    if is_empty:
        raise UserError(f"the checkpoint '{path}' is an empty file; {_GIVE}")
    if not is_archive:
        raise UserError(f"'{path}' is not a checkpoint, or is truncated; {_GIVE}")


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    _require_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' is damaged, or holds more than tensors and plain values; it is not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint '{path}' is damaged: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is not a checkpoint: it holds a {type(content).__name__}; {_GIVE}")
    return content
