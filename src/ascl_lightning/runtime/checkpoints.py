"""Files that a run goes on from or a model is loaded from: where they lie, and how they are written and read.

Nothing here runs code that a file brings: pickles are read with `weights_only`, and addresses are refused.
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

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import atomic_file, remove_partials

WEIGHTS = "model.safetensors"
LAST = "last-*.ckpt"
"""The newest checkpoints of a run; the star is the step."""
DATA_MODULE = "RetrievalDataModule"
"""Entry of a checkpoint with the state of the data module, named by Lightning after its class."""
_GIVE = "give a .ckpt file that `ascl fit` wrote, or the folder of its exported weights"
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
    elif path.is_dir() and not _is_sharded(path):
        raise UserError(f"--ckpt_path {name}: the folder holds neither {WEIGHTS} nor all shards of a checkpoint")
    elif not path.exists():
        raise UserError(f"--ckpt_path {name}: there is no such file")
    if not path.is_dir():
        _require_weights_in(path)
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
    """Writes a file that appears complete or not at all, whenever this process or the machine ends.

    Raises:
        UnwritableError: If it cannot be written; what lay there before is untouched.
    """
    remove_partials(path.parent)
    with atomic_file(path) as file:
        torch.save(content, file)


def require_weights(content: Mapping[str, Any], path: Path) -> None:
    """Makes sure that what a file holds can be evaluated or trained further.

    Args:
        content: Of a checkpoint, or of exported weights under `state_dict`.
        path: The file, for messages.

    Raises:
        UserError: If it holds no weights, only weights, or weights that are not finite.
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
    """How many tensors hold NaN or infinity, and the name of the first; "" if none does."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return f"{len(bad)} of {len(state)} tensors, such as {bad[0]}" if bad else ""


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
        raise UserError(f"the weights file '{path}' is damaged or cannot be read: {error}") from error


def _require_weights_in(path: Path) -> None:
    if not path.is_file():  # opening a named pipe would wait for ever
        raise UserError(f"--ckpt_path {path}: this is no regular file")
    if path.suffix == ".safetensors":
        require_weights({"state_dict": read_weights(path)[0]}, path)
    else:
        require_weights(_load(path, mmap=True), path)


def _checked(path: Path) -> dict[str, Any]:
    """A whole checkpoint, whose tensors stay on disk; of one in shards, what is not in the shards."""
    if path.is_dir():
        if not _is_sharded(path):
            raise UserError(f"the checkpoint '{path}' lacks shards")
        return _load(path / _SHARDED[0])
    _check_sums(path)
    content = _load(path, mmap=True)
    require_weights(content, path)
    return content


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


def _check_sums(path: Path) -> None:
    """Compares every record with its checksum, which `torch.load` does not do."""
    _require_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # damaged ones raise nearly any error
        raise UserError(f"the checkpoint '{path}' is damaged: {error}") from error
    if bad is not None:
        raise UserError(f"the checkpoint '{path}' is damaged: {bad} is not what was written")


def _require_archive(path: Path) -> None:
    """What `torch.save` writes is a ZIP archive."""
    is_archive = False
    try:
        with path.open("rb") as file:
            is_empty = not file.read(1)
            with suppress(zipfile.BadZipFile):
                is_archive = zipfile.is_zipfile(file)
    except FileNotFoundError:
        raise UserError(f"the checkpoint '{path}' is not there") from None
    except OSError as error:
        raise UserError(f"the checkpoint '{path}' cannot be read: {error.strerror}") from error
    if is_empty:
        raise UserError(f"the checkpoint '{path}' is an empty file; {_GIVE}")
    if not is_archive:
        raise UserError(f"'{path}' is no checkpoint, or it is cut short; {_GIVE}")


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    _require_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' is damaged, or holds more than tensors and plain values, and is not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint '{path}' is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is no checkpoint: it holds a {type(content).__name__}; {_GIVE}")
    return content
