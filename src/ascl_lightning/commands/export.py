"""`ascl export`: write a model as ONNX graphs, which other programs can serve."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ascl_lightning.commands.index import origin_of
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_writable_folder

if TYPE_CHECKING:
    from ascl_lightning.data.sources import Split
    from ascl_lightning.export.int8 import Int8Loss
    from ascl_lightning.export.onnx import Exported


def run(args: Sequence[str]) -> int:
    """Exports a model and prints what was checked.

    Args:
        args: The command line, beginning with `export`.

    Returns:
        The exit code.

    Raises:
        UserError: If a flag, the model or the folder is wrong, a package is missing, or a graph differs from the model.
    """
    parser = export_parser()
    given, data_flags = parser.parse_known_args(args[1:])
    _check(parser, given, data_flags)
    try:
        # seconds of import, for which --help does not wait
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"ascl export needs {error.name}: pip install 'ascl-lightning[onnx]'") from error
    from ascl_lightning.export.onnx import export_onnx, require_export_folder
    from ascl_lightning.gallery.gallery import load_model

    require_export_folder(given.out)
    split = _read_split(given, data_flags) if given.int8 else None
    retriever = load_model(origin_of(given), "cpu")
    _print(export_onnx(retriever, given.out, split), given)
    return 0


def export_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="ascl export",
        description="Write a model as two ONNX graphs, one for pictures and one for texts, with a tokenizer file and a "
        "description, so that it can be served without this package. The graphs are checked against the model.",
        epilog="With --int8, flags such as --data.root override the config's section `data`.",
    )
    add = parser.add_argument
    add("--onnx", action="store_true", required=True, help="format of the export; there is no other yet")
    add("--weights", metavar="FOLDER", help="exported weights of a run, or the id of a Hugging Face repository")
    add("--ckpt_path", metavar="FILE", help="a checkpoint instead of --weights; or best or last of the runs in runs/")
    add("--config", metavar="CONFIG", help="config of that training, or of the data of --split")
    add("--out", metavar="FOLDER", type=Path, required=True, help="folder to write")
    add("--int8", action="store_true", help="also write graphs with weights of 8 bits, and measure what they cost")
    add("--split", metavar="NAME", default="val", help="split of the data of --config for this measure; default: val")
    return parser


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace, data_flags: Sequence[str]) -> None:
    if (given.weights is None) == (given.ckpt_path is None):
        raise UserError(
            "ascl export: give --weights with a folder of exported weights, or --ckpt_path with a checkpoint"
        )
    if given.int8 and given.config is None:
        raise UserError("--int8: give --config with the config of the data on which to measure the loss of recall")
    if data_flags and (not given.int8 or not data_flags[0].startswith("--data.")):
        parser.error(f"unrecognized arguments: {' '.join(data_flags)}")
    require_writable_folder(given.out)


def _read_split(given: argparse.Namespace, data_flags: Sequence[str]) -> "Split":
    from ascl_lightning.commands.base import DataCLI

    return DataCLI(["export", "--config", given.config, *data_flags]).datamodule.read(given.split)


def _print(exported: "Exported", given: argparse.Namespace) -> None:
    for file, difference in exported.differences.items():
        print(f"{given.out / file}: differs from PyTorch by at most {difference:.1e}")
    if exported.loss is not None:
        _print_loss(exported.loss, given.split)


def _print_loss(loss: "Int8Loss", split: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from ascl_lightning.metrics.labels import RECALLS, WAYS

    title = f"Recall of int8 on {loss.num_images:,} images and {loss.num_texts:,} captions of {split}, and change"
    table = Table("Score", "Direction", *RECALLS.values(), title=title)
    for score, after in loss.int8.items():
        for direction, words in WAYS.items():
            names = [f"{direction}/{name}" for name in RECALLS]
            changes = (after[name] - loss.float32[score][name] for name in names)
            cells = (f"{after[name]:.1f} ({change:+.1f})" for name, change in zip(names, changes, strict=True))
            table.add_row(score, words, *cells)
    Console().print(table)
