import json
import subprocess
import sys

import pytest
from tests.helpers.finished_commands import finished_commands

from ascl_lightning.__main__ import main
from ascl_lightning.experiment import tasks

SIZES = {"num_train": 24, "num_val": 8, "num_test": 4}
GRID = {
    "seeds": [0, 1],
    "quick": ["scenes/infonce"],
    "settings": {f"data.source.{name}": size for name, size in SIZES.items()} | {"trainer.max_epochs": 1},
    "validate": {"report_card.commands": ["validate"], "report_card.scores": ["independent", "fused"]},
    "groups": {"scenes": {"configs": ["scenes"]}},
    "rows": {"infonce": {"configs": ["baselines/infonce"]}, "ascl": {"baseline": "infonce"}},
}


@pytest.fixture
def grid(tmp_path):
    content = GRID | {"settings": GRID["settings"] | {"trainer.check_val_every_n_epoch": 1}}
    (tmp_path / "grid.yaml").write_text(json.dumps(content))
    return ["experiment", "--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]


@pytest.fixture
def commands(monkeypatch):
    """The commands that would run."""
    ran = []

    monkeypatch.setattr(tasks.subprocess, "Popen", finished_commands(ran))
    monkeypatch.setattr("ascl_lightning.commands.experiment._machine", lambda flags: "a machine")
    monkeypatch.setattr("ascl_lightning.commands.experiment._write", lambda *args: None)
    return ran


def test_the_quick_form(grid, commands):
    assert main([*grid, "--quick", "--", "--trainer.accelerator", "cpu"]) == 0

    assert [command[0] for command in commands] == ["fit", "validate"]
    for command in commands:
        assert "baselines/infonce.yaml" in " ".join(command) or "baselines/infonce" in command
        assert command[command.index("--seed_everything") + 1] == "0"
        assert command[command.index("--trainer.accelerator") + 1] == "cpu"


def test_chosen_seeds_and_rows(grid, commands):
    assert main([*grid, "--seeds", "7", "8", "--only", "*/ascl"]) == 0

    seeds = [command[command.index("--seed_everything") + 1] for command in commands]
    assert seeds == ["7", "7", "8", "8"]


def test_a_failed_command_gives_code_1(grid, commands, capsys):
    assert main([*grid, "--quick", "--", "--fail"]) == 1

    assert "Failed: scenes/infonce seed 0: `ascl fit` ended with code 2" in capsys.readouterr().out


def test_a_document_of_nothing_names_no_folder_of_this_machine(grid, tmp_path):
    page = tmp_path / "page.md"

    assert main([*grid, "--table", "--document", str(page)]) == 0

    text = page.read_text()
    assert "0 of 4 runs" in text
    assert "ascl experiment --grid grid.yaml --out FOLDER --document FILE\n" in text
    assert str(tmp_path) not in text


def test_mistakes_are_named_before_anything_runs(grid, tmp_path, capsys):
    content = json.loads((tmp_path / "grid.yaml").read_text())
    content["groups"]["scenes"]["extract"] = {}
    (tmp_path / "grid.yaml").write_text(json.dumps(content))

    assert main(grid) == 2
    assert "--data: give the folder of the data" in capsys.readouterr().err
    assert main([*grid, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    assert main([*grid, "--table", "--document", str(tmp_path)]) == 2
    assert f"cannot write '{tmp_path}'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*grid, "--jobs", "0"])
    assert end.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_grid_on_scenes(grid, tmp_path):
    """Two processes train and validate two rows with two seeds, and a third run finds all done."""
    command = [sys.executable, "-m", "ascl_lightning", *grid, "--", "--trainer.accelerator", "cpu"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = "".join(process.communicate(timeout=1200)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(line.partition(":")[0] for line in printed.splitlines() if line.startswith("scenes/")) == [
        f"scenes/{row} seed {seed}" for row in ("ascl", "infonce") for seed in (0, 1)
    ]

    again = subprocess.run(command, capture_output=True, text=True, check=True)

    assert again.stdout == f"Results: {tmp_path / 'out' / 'experiment.md'}\n"
    text = (tmp_path / "out" / "experiment.md").read_text()
    assert "4 of 4 runs" in text
    for title in ("rSum by score", "rSum minus that of the baseline", "Recall by `fused`", "Report card", "Rows"):
        assert f"### {title}\n" in text
    assert "nan" not in text
    assert not list((tmp_path / "out").rglob("*.ckpt"))
    assert not list((tmp_path / "out").rglob("*.safetensors"))
