"""Old names of modules whose classes stand in the configs of runs and in user code; importable for one release."""

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "callbacks.weight_average": "training.callbacks.weight_average",
    "data.asymmetry": "data.augment.text_operations",
    "data.image_operations": "data.augment.image_operations",
    "data.word_edits": "data.augment.more_text_operations",
    "metrics.functional": "metrics.recall",
    "models.clip_encoders": "models.towers.clip",
    "models.fusion": "models.similarity.fused",
    "models.image_encoders": "models.towers.image",
    "models.scoring": "models.similarity.local",
    "models.text_encoders": "models.towers.text",
    "models.tuning": "models.towers.tuning",
    "modules.retrieval": "training.module",
    "modules.schedule": "training.schedule",
    "retrieval": "search",
}
"""Old name and new name, both inside the package."""
_PACKAGES = {"callbacks", "modules"}


class _OldNames(MetaPathFinder, Loader):
    """Finds an old name as a module of its own that looks everything up in the new one."""

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
