import inspect
import os
from importlib import import_module

import pytest

from ascl_lightning.__main__ import CONFIGURED, main
from ascl_lightning.errors import UserError
from ascl_lightning.parsing.early_checks import SECTIONS, _arguments, check_command_line

MISTAKES = {
    "--trainer.max_epoch 3": "--trainer.max_epoch: unknown argument; did you mean 'max_epochs'?",
    "--data.nothing=3": "choose from augment, batch_size",
    "--trainer [1,2]": "--trainer: expected 'name: value' lines or the name of a YAML file, found a list",
    "--trainer.max_epochs 0": "--trainer.max_epochs 0: give a whole number from 1 or -1 for no limit",
    "--trainer.limit_train_batches 0": "give a whole number from 1 or a fraction above 0 and up to 1.0",
    "--trainer.limit_train_batches=0.0": "limit_train_batches 0.0",
    "--trainer.overfit_batches 4": "use --trainer.limit_train_batches and --trainer.limit_val_batches",
    "--seed_everything true": "--seed_everything true: give a whole number from 0 to 4294967295",
    "--seed_everything -1": "--seed_everything -1",
    "--seed_everything 4294967296": "from 0 to 4294967295",
    "--config": "--config: give a file",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_mistakes_in_flags(flags, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {max_epochs: 1}\n")
    with pytest.raises(UserError) as caught:
        check_command_line(["fit", "--config", str(config), *flags.split()])
    assert MISTAKES[flags] in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        "--trainer.max_epochs -1 --trainer.max_steps 10",
        "--trainer.limit_val_batches 0 --trainer.limit_test_batches 1.0 --trainer.overfit_batches 0.0",
        "--trainer.limit_train_batches 4.0 --trainer.val_check_interval 2.0",
        "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/rsum",
        "--trainer.logger+ WandbLogger --trainer.logger.offline true",
        "--data.seed 3 --seed_everything 4294967295 --resume --model.loss.temperature 0.1",
        "--model.image_encoder.help",
    ],
)
def test_flags_that_are_fine(flags, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {max_epochs: 1}\n")
    check_command_line(["fit", "--config", str(config), *flags.split()])


CONFIGS = {
    "trainer: [1, 2]": "trainer: expected 'name: value' lines or the name of a YAML file, found a list",
    "trainer:": "trainer: expected 'name: value' lines or the name of a YAML file, found nothing",
    "trainer: {max_epoch: 1}": "trainer: max_epoch: unknown argument; did you mean 'max_epochs'?",
    "data: part.yaml": "part.yaml', line 1: the anchor 'a' contains itself",
    "data: nowhere.yaml": "nowhere.yaml': there is no such file",
    "seed_everything: true": "--seed_everything true",
    "trainer: {a: 1, a: 2}": "line 1: the key 'a' is repeated",
    "": "the file is empty",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_mistakes_in_configs_name_the_file(config, tmp_path):
    (tmp_path / "part.yaml").write_text("batch_size: &a [*a]")
    path = tmp_path / "config.yaml"
    path.write_text(config)
    with pytest.raises(UserError) as caught:
        check_command_line(["fit", "--config", str(path), "--trainer.max_epochs", "1"])
    assert CONFIGS[config] in str(caught.value)


def test_inline_configs_are_checked():
    with pytest.raises(UserError, match="contains itself"):
        check_command_line(["fit", "--config", "{data: &a {x: *a}}"])
    with pytest.raises(UserError, match="found a list"):
        check_command_line(["fit", "--config", "[1]"])


def test_a_pipe_is_left_to_the_command(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_command_line(["fit", "--config", str(tmp_path / "pipe")])


@pytest.mark.parametrize("command", sorted(CONFIGURED))
def test_a_command_without_a_config_asks_for_one(command, capsys):
    assert main([command]) == 2
    assert f"ascl {command}: give --config" in capsys.readouterr().err


def test_help_and_a_model_given_by_flags_need_no_config():
    for flags in (["--help"], ["--print_config"], ["--model.loss", "InfoNCE"]):
        check_command_line(["fit", *flags])


@pytest.mark.parametrize("class_path", SECTIONS.values())
def test_arguments_read_from_sources_are_those_of_the_class(class_path):
    module, _, name = class_path.rpartition(".")
    signature = inspect.signature(inspect.unwrap(getattr(import_module(module), name)))
    assert _arguments(class_path) == signature.parameters.keys()
