import json

import pytest
import yaml

from ascl_lightning.errors import UserError
from ascl_lightning.experiment.grid import Cells, Grid, flags_in_words

GRID = {
    "seeds": [3, 4],
    "settings": {"trainer.max_epochs": 2},
    "validate": {"report_card.commands": ["validate"]},
    "groups": {"frozen": {"configs": ["BASE"], "extract": {"variants": 2}}, "pictures": {"configs": ["BASE"]}},
    "rows": {
        "infonce": {"configs": ["baselines/infonce"]},
        "ascl": {"baseline": "infonce"},
        "shuffle": {"stored": {"data.negatives": ["ShuffleWords"]}, "baseline": "ascl", "groups": ["frozen"]},
        "mixgen": {"stored": None},
    },
}


@pytest.fixture
def grid(tmp_path):
    """A grid with a config that refers to another."""
    (tmp_path / "data.yaml").write_text("batch_size: 4\n")
    (tmp_path / "base.yaml").write_text("data: data.yaml\n")
    return read(tmp_path, GRID)


def read(folder, content):
    text = json.dumps(content).replace("BASE", str(folder / "base.yaml"))
    (folder / "grid.yaml").write_text(text)
    return Grid.read(folder / "grid.yaml")


def cells_of(grid, folder, **kwargs):
    cells = Cells(grid, folder / "out", folder, ["--trainer.accelerator", "cpu"]).chosen(grid.seeds, **kwargs)
    return {(cell.group.name, cell.row.name, cell.seed): cell.task for cell in cells}


def test_the_first_seed_of_all_rows_comes_first(grid, tmp_path):
    rows = [("frozen", "infonce"), ("frozen", "ascl"), ("frozen", "shuffle"), ("frozen", "mixgen")]
    rows += [("pictures", "infonce"), ("pictures", "ascl"), ("pictures", "mixgen")]

    assert list(cells_of(grid, tmp_path)) == [(*row, seed) for seed in (3, 4) for row in rows]


def test_commands_of_a_cell(grid, tmp_path):
    task = cells_of(grid, tmp_path)["pictures", "infonce", 4]

    base = ["--config", str(tmp_path / "base.yaml"), "--config", "baselines/infonce"]
    settings = ["--trainer.max_epochs", "2", "--data.root", str(tmp_path), "--seed_everything", "4", "--data.seed", "4"]
    place = ["--trainer.default_root_dir", str(task.folder), "--trainer.accelerator", "cpu"]
    card = ["--report_card.commands", '["validate"]']
    assert task.commands == (
        ("fit", *base, *settings, *place, "--resume"),
        ("validate", *base, *settings, *place, *card, "--ckpt_path", "best"),
    )
    assert task.needs is None


def test_rows_with_equal_stored_settings_share_their_features(grid, tmp_path):
    tasks = cells_of(grid, tmp_path)

    features = tasks["frozen", "infonce", 3].needs
    assert features is tasks["frozen", "ascl", 4].needs
    assert features is not tasks["frozen", "shuffle", 3].needs
    assert tasks["frozen", "shuffle", 3].needs is tasks["frozen", "shuffle", 4].needs
    ((command, *flags),) = tasks["frozen", "shuffle", 3].needs.commands
    flags = dict(zip(flags[::2], flags[1::2], strict=True))
    assert (command, flags["--variants"], flags["--data.negatives"]) == ("extract", "2", '["ShuffleWords"]')
    assert (flags["--data.root"], json.loads(flags["--splits"])) == (str(tmp_path), ["train", "val"])
    for command, *words in tasks["frozen", "shuffle", 3].commands:
        flags = dict(zip(words[::2], words[1::2], strict=False))
        assert command in ("fit", "validate")
        assert (flags["--data.source"], flags["--data.negatives"]) == ("ExtractedFeatures", '["ShuffleWords"]')
        assert flags["--data.root"] == str(tasks["frozen", "shuffle", 3].needs.folder / "tables")


def test_a_row_can_read_the_data_themselves(grid, tmp_path):
    task = cells_of(grid, tmp_path)["frozen", "mixgen", 3]

    assert task.needs is None
    assert "ExtractedFeatures" not in task.commands[0]


def test_a_changed_config_moves_its_cells_alone(grid, tmp_path):
    before = cells_of(grid, tmp_path)
    (tmp_path / "data.yaml").write_text("# a comment\nbatch_size: 4\n")
    assert [task.folder for task in cells_of(grid, tmp_path).values()] == [task.folder for task in before.values()]

    changed = json.loads(json.dumps(GRID))
    changed["rows"]["ascl"]["settings"] = {"data.seed": 1}
    after = cells_of(read(tmp_path, changed), tmp_path)
    assert {name for name, task in after.items() if task.folder != before[name].folder} == {
        (group, "ascl", seed) for group in ("frozen", "pictures") for seed in (3, 4)
    }

    (tmp_path / "data.yaml").write_text("batch_size: 5\n")
    moved = cells_of(grid, tmp_path)
    assert all(moved[name].folder != task.folder for name, task in before.items())
    assert moved["frozen", "ascl", 3].needs.folder != before["frozen", "ascl", 3].needs.folder


def test_patterns_choose_rows(grid, tmp_path):
    chosen = cells_of(grid, tmp_path, only=["frozen/s*", "*/mixgen"])

    assert {name[:2] for name in chosen} == {("frozen", "shuffle"), ("frozen", "mixgen"), ("pictures", "mixgen")}
    with pytest.raises(UserError, match="no row matches 'infonce': rows are named frozen/infonce, "):
        cells_of(grid, tmp_path, only=["infonce"])


def test_flags_of_a_row_in_words(grid):
    rows = {row.name: flags_in_words(row) for row in grid.rows}

    assert rows == {
        "infonce": "--config baselines/infonce",
        "ascl": "",
        "shuffle": "--data.negatives '[\"ShuffleWords\"]'",
        "mixgen": "",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rowz": {}}, "unknown key 'rowz'; the keys are groups, notes, "),
        ({"rows": {}}, "rows: give a mapping of names to settings"),
        ({"rows": {"a/b": {}}}, "'a/b' names folders: use letters"),
        ({"rows": {"a": {"option": 1}}}, "rows.a: unknown key 'option'"),
        ({"rows": {"a": [1]}}, "rows.a: give a mapping with some of the keys about, baseline"),
        ({"rows": {"a": {"baseline": "b"}}}, "rows.a: its baseline 'b' is no other row"),
        ({"rows": {"a": {"groups": ["b"]}}}, "rows.a: there is no group 'b'"),
        ({"rows": {"a": {"configs": ["nothing"]}}}, "no config file 'nothing'"),
        ({"groups": {"a": {"tried": {"b": 2}}}, "rows": {"c": {}}}, "groups.a.tried: there is no row 'b'"),
    ],
)
def test_mistakes_are_named(grid, tmp_path, change, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read(tmp_path, GRID | change)


def test_files_that_are_no_grid(tmp_path):
    for text, message in (("a: [", "cannot be read"), ("- 1", "give a mapping")):
        (tmp_path / "grid.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            Grid.read(tmp_path / "grid.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        Grid.read(tmp_path / "nothing.yaml")


def test_values_of_flags_are_yaml(grid, tmp_path):
    content = GRID | {"rows": {"a": {"settings": {"x": None, "y": "off", "z": {"operations": ["ZeroOut"]}}}}}
    flags = cells_of(read(tmp_path, content), tmp_path)["pictures", "a", 3].commands[0]

    given = dict(zip(flags[1::2], flags[2::2], strict=False))
    assert given["--y"] == "off"
    assert [yaml.safe_load(given[name]) for name in ("--x", "--z")] == [None, {"operations": ["ZeroOut"]}]
