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


@pytest.mark.filterwarnings("ignore:.*goes with the next release:FutureWarning")
@pytest.mark.parametrize(
    ("old", "name"),
    [("image_encoders", "PixelEncoder"), ("image_encoders", "grid_features"), ("text_encoders", "masked_mean")],
)
def test_old_module_has_what_own_towers_import(old: str, name: str) -> None:
    assert callable(getattr(import_module(f"ascl_lightning.models.{old}"), name))


def test_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("ascl_lightning.callbacks.nothing")
    with pytest.raises(ImportError):
        exec("from ascl_lightning.models.fusion import nothing", {})


def test_arguments_of_towers_move_into_tuning() -> None:
    tower = {
        "class_path": "ascl_lightning.models.image_encoders.TimmImageEncoder",
        "init_args": {"name": "resnet18", "frozen": True, "learning_rate": None},
    }
    other = {"class_path": "somewhere.Encoder", "init_args": {"frozen": True}}
    config = {"model": {"image_encoder": tower, "parts": [other]}}

    with pytest.warns(FutureWarning, match="`frozen` and `learning_rate` of .*TimmImageEncoder moved into `tuning`"):
        current = renamed.current_config(config)

    arguments = {"name": "resnet18", "tuning": {"frozen": True, "learning_rate": None}}
    assert current["model"]["image_encoder"] == {**tower, "init_args": arguments}
    assert current["model"]["parts"] == [other]
    assert "frozen" in tower["init_args"]


def test_regions_that_were_null_are_dropped() -> None:
    assert renamed.current_config({"data": {"seed": 0, "regions": None}}) == {"data": {"seed": 0}}
    given = {"data": {"regions": "regions.h5"}}
    assert renamed.current_config(given) == given


def test_current_arguments_stay_and_what_tuning_says_comes_first(recwarn: pytest.WarningsRecorder) -> None:
    tower = {"class_path": "ClipImageEncoder", "init_args": {"path": "x", "tuning": {"layer_decay": 0.5}}}
    assert renamed.current_config(tower) == tower
    assert not recwarn.list
    older = {**tower, "init_args": {**tower["init_args"], "learning_rate": 0.1}}
    with pytest.warns(FutureWarning):
        assert renamed.current_config(older)["init_args"]["tuning"] == {
            "learning_rate": 0.1,
            "layer_decay": 0.5,
        }


def test_old_names_cost_nothing_until_used() -> None:
    script = "import sys, ascl_lightning; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
