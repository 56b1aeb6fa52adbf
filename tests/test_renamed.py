import subprocess
import sys
from importlib import import_module

import pytest

from ascl_lightning import renamed
from ascl_lightning.models import ConvImageEncoder


@pytest.mark.parametrize("old", renamed.MODULES)
def test_old_name_gives_the_classes_of_the_new_module(old: str) -> None:
    sys.modules.pop(f"ascl_lightning.{old}", None)
    with pytest.warns(FutureWarning, match=f"ascl_lightning.{renamed.MODULES[old]}"):
        module = import_module(f"ascl_lightning.{old}")

    new = import_module(f"ascl_lightning.{renamed.MODULES[old]}")
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)


@pytest.mark.filterwarnings("ignore:.*goes with the next release:FutureWarning")
def test_a_class_is_the_same_by_both_names() -> None:
    from ascl_lightning.models.image_encoders import ConvImageEncoder as Old

    assert Old is ConvImageEncoder


def test_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("ascl_lightning.callbacks.nothing")
    with pytest.raises(ImportError):
        exec("from ascl_lightning.models.fusion import nothing", {})


def test_old_names_cost_nothing_until_used() -> None:
    script = "import sys, ascl_lightning; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
