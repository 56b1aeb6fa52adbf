"""What a sweep would set exists, and arrives where it should."""

from pathlib import Path

import pytest
import yaml

from ascl_lightning.__main__ import main

ROOT = Path(__file__).parents[2]
SWEEP = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())


def example(parameter):
    """A value that a sweep may draw."""
    return parameter["values"][0] if "values" in parameter else parameter["min"]


def test_each_parameter_sets_what_it_names(monkeypatch, capsys):
    """The command as W&B's agent makes it, with `--name=value` of every parameter in the place of `${args}`."""
    monkeypatch.chdir(ROOT)
    drawn = {name: example(parameter) for name, parameter in SWEEP["parameters"].items()}
    program, *command = SWEEP["command"]
    assert program == "ascl"
    assert command.pop() == "${args}"
    with pytest.raises(SystemExit) as stop:
        main([*command, *(f"--{name}={value}" for name, value in drawn.items()), "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["logger"]["class_path"].endswith("WandbLogger")
    assert shown["trainer"]["logger"]["init_args"]["project"] == SWEEP["project"]
    for name, value in drawn.items():
        found = shown
        for part in name.split("."):
            # a class that the config names keeps its arguments apart
            found = found["init_args"][part] if part not in found and "init_args" in found else found[part]
        assert found == value, name


def test_the_search_keeps_to_what_w_and_b_knows():
    assert SWEEP["method"] in {"bayes", "grid", "random"}
    assert SWEEP["metric"] == {"name": "val/rsum", "goal": "maximize"}
    for name, parameter in SWEEP["parameters"].items():
        if "values" in parameter:
            assert len(parameter["values"]) > 1, name
        else:
            assert parameter["distribution"] in {"uniform", "log_uniform_values"}, name
            assert parameter["min"] < parameter["max"], name


def test_a_parameter_that_does_not_exist_would_be_seen(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command = [*SWEEP["command"][1:-1], "--model.loss.init_args.temprature=0.1", "--print_config"]
    assert main(command) == 2
    assert "temprature" in capsys.readouterr().err
