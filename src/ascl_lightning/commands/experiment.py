"""`ascl experiment`: run a grid of trainings and validations, and write one document with the results."""

import argparse
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ascl_lightning.errors import UserError
from ascl_lightning.experiment.grid import Cell, Cells, Grid
from ascl_lightning.experiment.tasks import Workers
from ascl_lightning.runtime.files import require_writable_file, require_writable_folder, write_file

DOCUMENT = "experiment.md"
FAILED = 1
"""Exit code if a command of the grid failed."""


def run(args: Sequence[str]) -> int:
    """Runs the cells of a grid that are not done yet, and writes the document.

    Args:
        args: The command line, beginning with `experiment`.

    Returns:
        The exit code.

    Raises:
        UserError: If the grid has a mistake, a folder cannot be used, or a result cannot be read.
    """
    end = args.index("--") if "--" in args else len(args)
    given, flags = _parser().parse_args(args[1:end]), args[end + 1 :]
    grid = Grid.read(given.grid)
    page = given.document or given.out / DOCUMENT
    require_writable_folder(given.out)
    require_writable_file(page)
    if given.data is not None and not given.data.is_dir():
        raise UserError(f"--data {given.data}: there is no such folder")
    if given.data is None and grid.needs_data() and not given.table:
        raise UserError("--data: give the folder of the data, from which features are extracted")
    cells = Cells(grid, given.out.absolute(), given.data and given.data.absolute(), flags)
    seeds = given.seeds or (grid.seeds[:1] if given.quick else grid.seeds)
    chosen = cells.chosen(seeds, given.only or (grid.quick if given.quick else ()))
    failed = {} if given.table else _run(chosen, given.jobs, flags)
    _write(page, grid, chosen, args)
    for task, reason in failed.items():
        print(f"Failed: {task}: {reason}")
    return FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ascl experiment",
        description="Run every row of a grid with every seed: train, then validate the best checkpoint. What is done "
        "is skipped. Several processes can run the same command on the same folder and share the work. Weights are "
        "removed after validation. Test data are not read.",
        epilog="Flags after -- are those of all runs and say where they run, such as: -- --trainer.accelerator gpu",
    )
    add = parser.add_argument
    add("--grid", metavar="FILE", type=Path, required=True, help="grid file, such as experiments/flickr8k.yaml")
    add("--out", metavar="FOLDER", type=Path, required=True, help="folder of the experiment")
    add("--data", metavar="FOLDER", type=Path, help="folder of the data, as --data.root of `ascl fit`")
    add("--document", metavar="FILE", type=Path, help=f"file for the results; default: {DOCUMENT} in --out")
    add("--jobs", metavar="N", type=_positive, default=1, help="runs at a time in this process; default: 1")
    add("--seeds", metavar="SEED", type=int, nargs="+", help="seeds; default: those of the grid")
    add("--only", metavar="PATTERN", nargs="+", help="rows to run, such as 'frozen/*' or '*/infonce'; default: all")
    add("--quick", action="store_true", help="run only the first seed and the rows that the grid names under `quick`")
    add("--table", action="store_true", help="only write the document from what is done")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _run(cells: Sequence[Cell], jobs: int, flags: Sequence[str]) -> dict[str, str]:
    """Runs the cells; returns the reasons of failures."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    # jobs share the cores: with as many threads as cores each, they would wait for each other
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    workers = Workers([cell.task for cell in cells], jobs, environment, _machine(flags))
    workers.run()
    return {task.name: reason for task, reason in workers.failed.items()}


def _machine(flags: Sequence[str]) -> str:
    """Name of the GPU, or of the processor if runs do not use a GPU."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    except OSError:
        found = []
    if found and "cpu" not in flags:
        return found[0]
    return f"{os.cpu_count()} cores, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _write(page: Path, grid: Grid, cells: Sequence[Cell], args: Sequence[str]) -> None:
    # imports torch, which running the grid does not need
    from ascl_lightning.experiment.document import document

    write_file(page, document(grid, cells, _shown(args)))
    print(f"Results: {page}")


def _shown(args: Sequence[str]) -> str:
    """The command for the document, without the folders of this machine."""
    hidden: Mapping[str, str] = {"--data": "DIR", "--out": "FOLDER", "--document": "FILE"}
    previous = ("", *args)
    shown = [hidden.get(before) or _name(arg) for before, arg in zip(previous, args, strict=False)]
    return shlex.join(["ascl", *(word for word in shown if word != "--table")])


def _name(argument: str) -> str:
    """The last part of an absolute path; other arguments as they are."""
    return Path(argument).name if Path(argument).is_absolute() else argument
