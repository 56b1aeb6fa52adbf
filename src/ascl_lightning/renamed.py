"""Names of version 0.1 that configs and user code still contain: modules and arguments. Supported for one release."""

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "callbacks.weight_average": "training.callbacks.weight_average",
    "data.asymmetry": "data.augment",
    "data.augment.more_text_operations": "data.augment",
    "data.augment.text_operations": "data.augment",
    "data.image_operations": "data.augment.image_operations",
    "data.word_edits": "data.augment",
    "metrics.functional": "metrics.recall",
    "metrics.relevance": "metrics.precision",
    "models.clip_encoders": "models.towers.clip",
    "models.fusion": "models.similarity.fused",
    "models.image_encoders": "models",
    "models.scoring": "models.similarity.local",
    "models.text_encoders": "models",
    "models.tuning": "models.towers.tuning",
    "modules.retrieval": "training.module",
    "modules.schedule": "training.schedule",
    "retrieval": "search",
}
"""Old name and new name, both inside the package."""
_PACKAGES = {"callbacks", "modules"}
_TOWERS = {
    "ClipImageEncoder",
    "ClipTextEncoder",
    "ConvImageEncoder",
    "TimmImageEncoder",
    "TransformersTextEncoder",
    "WordTransformer",
}
_OF_TUNING = ("frozen", "learning_rate")


class _OldNames(MetaPathFinder, Loader):
    """Makes an old name importable as a module that takes its attributes from the new one."""

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        name = fullname.removeprefix("ascl_lightning.")
        if name == fullname or name not in {*MODULES, *_PACKAGES}:
            return None
        return ModuleSpec(fullname, self, is_package=name in _PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        name = MODULES.get(old.removeprefix("ascl_lightning."))
        if name is not None:
            new = f"ascl_lightning.{name}"
            warnings.warn(f"{old} is now {new}; the old name goes with the next release", FutureWarning, stacklevel=2)
            module.__getattr__ = partial(getattr, import_module(new))  # type: ignore[method-assign]


def install() -> None:
    """Makes the old names importable."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())


def current_config(config: Any) -> Any:
    """A configuration of version 0.1 with the arguments that the current classes take.

    `frozen` and `learning_rate` of towers move into `tuning`, with a warning. `data.regions` is dropped if it is null.

    Args:
        config: A configuration or a part of one, without cycles; it is not changed.
    """
    if isinstance(config, list):
        return [current_config(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {key: current_config(value) for key, value in config.items()}
    data = config.get("data")
    if isinstance(data, dict) and data.get("regions", ...) is None:
        del data["regions"]
    arguments = config.get("init_args")
    if str(config.get("class_path")).rpartition(".")[2] not in _TOWERS or not isinstance(arguments, dict):
        return config
    moved = {name: arguments.pop(name) for name in _OF_TUNING if name in arguments}
    if moved:
        names = " and ".join(f"`{name}`" for name in moved)
        message = (
            f"config: {names} of {config['class_path']} moved into `tuning`; the old place goes with the next release"
        )
        warnings.warn(message, FutureWarning, stacklevel=2)
        arguments["tuning"] = {**moved, **(arguments.get("tuning") or {})}
    return config
