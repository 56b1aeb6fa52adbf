"""Outputs that cannot be written: exit code 2 and one line, before any model is built or data is read."""

from pathlib import Path

import pytest
from tests.helpers.run_folders import write_run

from ascl_lightning.__main__ import main

TINY = ["--config", str(Path(__file__).parents[1] / "configs" / "tiny.yaml"), "--data.root", "no/such/folder"]
WANDB = ["--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.logger.save_dir"]


@pytest.mark.parametrize(
    "command",
    [
        ["fit", *TINY, "--trainer.default_root_dir"],
        ["fit", *TINY, "--checkpoint.dirpath"],
        ["fit", *TINY, *WANDB],
        ["validate", *TINY, "--trainer.default_root_dir"],
        ["test", *TINY, "--trainer.default_root_dir"],
        ["predict", *TINY, "--trainer.default_root_dir"],
        ["extract", *TINY, "--out"],
        ["triage", *TINY, "--ckpt_path", "best", "--out"],
        ["interpolate", *TINY, "--ckpt_path", "best", "--out"],
        ["samples", *TINY, "--html"],
        ["check", *TINY, "--json"],
        ["compare", "no/run", "no/run", "--json"],
    ],
    ids=lambda command: f"{command[0]}{command[-1]}",
)
def test_a_file_in_place_of_a_folder_is_named_first(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "inside"
    assert main([*command, str(place)]) == 2
    shown = capsys.readouterr().err
    (line,) = [line for line in shown.splitlines() if line.startswith("ascl: error:")]
    assert line.startswith(f"ascl: error: cannot write '{place}")
    assert line.endswith("a file is in the place of a folder: choose another place")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_that_cannot_be_written_is_named(tmp_path, capsys):
    run = write_run(tmp_path)
    (run / "report.html").mkdir()
    assert main(["report", str(run)]) == 2
    assert f"cannot write '{run / 'report.html'}': Is a directory; this is a folder" in capsys.readouterr().err


def test_features_are_not_extracted_into_a_folder_of_other_files(tmp_path, capsys):
    photo = tmp_path / "train" / "images" / "photo.jpg"
    photo.parent.mkdir(parents=True)
    photo.touch()
    assert main(["extract", *TINY, "--out", str(tmp_path)]) == 2
    assert "the folder contains other files than extracted features (train/images)" in capsys.readouterr().err
    assert photo.exists()
