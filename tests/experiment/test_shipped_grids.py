"""Every shipped grid can be read, and its commands have flags and values that the parser accepts."""

from pathlib import Path

import pytest

from ascl_lightning.__main__ import main
from ascl_lightning.experiment.grid import Cells, Grid

ROOT = Path(__file__).parents[2]
GRIDS = sorted((ROOT / "experiments").glob("*.yaml"))


def cells_of(path, data):
    grid = Grid.read(path)
    return grid, Cells(grid, data / "out", data).chosen(grid.seeds[:1])


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_quick_rows_exist_and_main_rows_have_a_baseline(path, tmp_path):
    grid, cells = cells_of(path, tmp_path)

    assert Cells(grid, tmp_path).chosen([0], grid.quick)
    assert len({cell.task.folder for cell in cells}) == len(cells)
    assert all(row.baseline is not None for row in grid.rows[1:])
    for cell in cells:
        assert all(
            "test" not in word for command in cell.task.commands for word in command if tmp_path.name not in word
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_parser_accepts_the_commands(path, tmp_path, capsys):
    """Of every row once, and of every extraction and one validation in each group."""
    _, cells = cells_of(path, tmp_path)
    first = {of: cell for cell in reversed(cells) for of in (cell.row, cell.group)}
    commands = [cell.task.commands[0] for cell in first.values()]
    commands += [cell.task.commands[1] for of, cell in first.items() if of is cell.group]
    commands += [task.commands[0] for task in {cell.task.needs for cell in cells} if task is not None]
    for command in commands:
        flags = [word for word in command if word not in ("--resume", "--ckpt_path", "best")]
        with pytest.raises(SystemExit) as end:
            main([*flags, "--print_config"])
        assert end.value.code in (0, None), capsys.readouterr().err
        capsys.readouterr()
