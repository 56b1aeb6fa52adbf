"""Shipped configs are found by name; existing paths take precedence."""

import re
from pathlib import Path

import pytest
import yaml

from ascl_lightning.__main__ import main
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.config_files import find_config, shipped_configs, with_config_paths

CONFIGS = Path(__file__).parents[2] / "configs"
ARGUMENTS = {"trainer", "model", "data", "checkpoint", "seed_everything"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_name_is_a_shipped_config():
    assert find_config("scenes") == CONFIGS / "scenes.yaml"
    assert find_config("logger/wandb") == CONFIGS / "logger" / "wandb.yaml"
    assert find_config("trainer/fsdp") == CONFIGS / "trainer" / "fsdp.yaml"


def test_an_existing_path_takes_precedence():
    Path("scenes").write_text("seed_everything: 1\n")
    assert find_config("scenes") == Path("scenes")
    assert find_config(CONFIGS / "clip.yaml") == CONFIGS / "clip.yaml"


def test_a_folder_of_that_name_does_not_hide_the_config():
    Path("scenes").mkdir()
    assert find_config("scenes") == CONFIGS / "scenes.yaml"


@pytest.mark.parametrize("name", ["scene", "configs/scenes.yaml", "../configs/scenes", "logger", "", "."])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UserError) as error:
        find_config(name)
    assert f"'{name}'" in str(error.value)
    assert "clip, coco, coco_regions, flickr30k" in str(error.value)
    assert "logger/wandb" in str(error.value)


def test_listed_are_experiments_and_what_can_be_added_to_one():
    """Excludes parts of experiments (values of `model`, `data` and `trainer`) and W&B's sweep."""
    listed = shipped_configs()
    assert {"scenes", "coco", "clip", "logger/tensorboard", "callbacks/weight_average"} <= set(listed)
    assert "sweep" not in listed
    for name in listed:
        assert set(yaml.safe_load(find_config(name).read_text())) <= ARGUMENTS, name


def test_only_the_values_of_config_are_replaced():
    scenes, wandb = str(CONFIGS / "scenes.yaml"), str(CONFIGS / "logger" / "wandb.yaml")
    assert with_config_paths(["fit", "--config", "scenes", "--config=logger/wandb", "--data.root", "scenes"]) == [
        *("fit", "--config", scenes, f"--config={wandb}", "--data.root", "scenes")
    ]
    assert with_config_paths(["fit", "-c", "scenes"]) == ["fit", "-c", scenes]
    assert with_config_paths(["fit", "--config"]) == ["fit", "--config"]


@pytest.mark.parametrize("inline", ["{trainer: {max_epochs: 1}}", "seed_everything: 3"])
def test_an_inline_config_is_kept(inline):
    assert with_config_paths(["fit", "--config", inline]) == ["fit", "--config", inline]


def test_the_command_line_finds_a_config_and_its_parts(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "scenes", "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (
        shown["trainer"]["max_epochs"]
        == yaml.safe_load((CONFIGS / "trainer" / "scenes.yaml").read_text())["max_epochs"]
    )
    assert shown["data"]["source"]["class_path"].endswith("Scenes")


def test_an_unknown_name_ends_the_command_with_code_2_before_it_is_imported(monkeypatch, capsys):
    monkeypatch.delattr("ascl_lightning.__main__.import_module")
    assert main(["fit", "--config", "scnes"]) == 2
    assert "'scnes'" in capsys.readouterr().err


def test_commands_of_the_documentation_work_in_any_folder():
    root = CONFIGS.parent
    pages = [path.read_text() for path in (root / "README.md", *root.glob("docs/*.md"))]
    named = {name for page in pages for name in re.findall(r"--config ([^\s`]+)", page)} - {"FILE"}
    assert {"scenes", "logger/wandb"} <= named
    for name in named:
        assert find_config(name).is_relative_to(CONFIGS)
