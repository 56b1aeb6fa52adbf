"""`ascl index`: encode the pictures of a folder, so that they can be searched."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ascl_lightning.errors import UserError

if TYPE_CHECKING:
    from ascl_lightning.gallery.index import IndexSummary
    from ascl_lightning.gallery.manifest import Origin

INTERRUPTED = 130
"""Exit code after Ctrl-C, unless the folder is watched."""
_WATCH_SECONDS = 5.0


def run(args: Sequence[str]) -> int:
    """Indexes a folder and prints what changed.

    Args:
        args: The command line, beginning with `index`.

    Returns:
        The exit code.

    Raises:
        UserError: If a flag, the model or the folder is wrong, or another model made the gallery.
    """
    parser = index_parser()
    given, data_flags = parser.parse_known_args(args[1:])
    _check(parser, given, data_flags)

    # imports torch, for which --help does not wait
    from ascl_lightning.gallery.gallery import load_model
    from ascl_lightning.gallery.index import index
    from ascl_lightning.runtime.distributed import leave_group, rank
    from ascl_lightning.runtime.ranks import from_rank_0, join_ranks

    place = join_ranks()
    images = given.images
    if given.split is not None:
        images = from_rank_0(_write_split(given, data_flags) if rank() == 0 else None)
    origin = origin_of(given)
    retriever = load_model(origin, given.device or _device(place))
    rebuild = given.rebuild
    try:
        while True:
            summary = index(
                retriever,
                images,
                given.out,
                origin=origin,
                store=given.store,
                batch_size=given.batch_size,
                rebuild=rebuild,
                progress=sys.stderr.isatty(),
            )
            if rank() == 0:
                _print(summary, given.out)
            if given.watch is None:
                return 0
            rebuild = False
            time.sleep(given.watch)
    except KeyboardInterrupt:
        if given.watch is not None:
            return 0
        print("Interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED
    finally:
        leave_group()


def index_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="ascl index",
        description="Encode the pictures of a folder, so that `ascl search` and `ascl serve` can search them. Run it "
        "again after pictures were added, changed, moved or removed: only new and changed ones are encoded. NAME.txt "
        "beside NAME.jpg holds captions, one per line.",
        epilog="With --split, flags such as --data.root override the config's section `data`. Several processes share "
        "the work: torchrun --nproc-per-node N -m ascl_lightning index ..., or srun ascl index ....",
    )
    add = parser.add_argument
    add("--weights", metavar="FOLDER", help="exported weights of a run, or the id of a Hugging Face repository")
    add("--ckpt_path", metavar="FILE", help="a checkpoint instead of --weights; or best or last of the runs in runs/")
    add("--config", metavar="CONFIG", help="config of that training, or of the data of --split")
    add("--images", metavar="FOLDER", type=Path, help="folder of the pictures, read at any depth")
    add("--split", metavar="NAME", help="index a split of the data of --config instead of --images")
    add("--out", metavar="FOLDER", type=Path, required=True, help="folder of the gallery")
    add(
        "--store",
        metavar="ADDRESS",
        help="Milvus server for the vectors, such as http://localhost:19530, or a file NAME.db for Milvus Lite; the "
        "gallery remembers it. Default: the gallery's folder",
    )
    add("--batch_size", metavar="N", type=_positive, default=64, help="default: 64; halved when memory runs out")
    add("--device", metavar="DEVICE", help="default: the first GPU if there is one, else the CPU")
    add("--rebuild", action="store_true", help="encode all pictures again, also with other weights")
    add(
        "--watch",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=_WATCH_SECONDS,
        help=f"index again every SECONDS until interrupted; default: {_WATCH_SECONDS:g}",
    )
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace, data_flags: Sequence[str]) -> None:
    from ascl_lightning.gallery.manifest import store_address

    if (given.images is None) == (given.split is None):
        raise UserError("ascl index: give --images with a folder of pictures, or --split with a split of --config")
    if (given.weights is None) == (given.ckpt_path is None):
        raise UserError(
            "ascl index: give --weights with a folder of exported weights, or --ckpt_path with a checkpoint"
        )
    if given.split is not None and given.config is None:
        raise UserError("--split: give --config with the config of the data")
    if data_flags and (given.split is None or not data_flags[0].startswith("--data.")):
        parser.error(f"unrecognized arguments: {' '.join(data_flags)}")
    if given.images is not None and not given.images.is_dir():
        raise UserError(f"--images {given.images}: there is no such folder")
    if given.store is not None:
        store_address(given.store)
    if given.watch is not None and given.watch <= 0:
        raise UserError(f"--watch {given.watch:g}: give a positive number of seconds")


def origin_of(given: argparse.Namespace) -> "Origin":
    """The model that the flags name, with absolute paths."""
    from ascl_lightning.gallery.manifest import Origin
    from ascl_lightning.runtime.checkpoints import WEIGHTS, find_checkpoint

    if given.weights is not None:
        return Origin(weights=_absolute(given.weights))
    found = find_checkpoint(given.ckpt_path, Path("runs"))
    assert found is not None
    if Path(found).name == WEIGHTS:
        return Origin(weights=_absolute(Path(found).parent))
    return Origin(ckpt_path=_absolute(found), config=given.config and _absolute(given.config))


def _absolute(path: str | Path) -> str:
    """An existing path in full; the id of a repository as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def _write_split(given: argparse.Namespace, data_flags: Sequence[str]) -> Path:
    """Writes the pictures of a split into the gallery's folder."""
    from ascl_lightning.commands.base import DataCLI
    from ascl_lightning.gallery.split_folder import write_split

    data = DataCLI(["index", "--config", given.config, *data_flags]).datamodule
    folder: Path = given.out / f"split-{given.split}"
    write_split(data.read(given.split), folder)
    return folder


def _device(place: int | None) -> str | None:
    """A GPU for each process of a machine; None if there is one process, or no GPU."""
    import torch

    return None if place is None or not torch.cuda.is_available() else f"cuda:{place % torch.cuda.device_count()}"


def _print(summary: "IndexSummary", out: Path) -> None:
    for path, reason in summary.unreadable.items():
        print(f"Skipped {path}: {reason}", file=sys.stderr)
    counts = {
        "added": summary.added,
        "changed": summary.changed,
        "moved": summary.moved,
        "removed": summary.removed,
        "unchanged": summary.unchanged,
        "unreadable": len(summary.unreadable),
    }
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no pictures"
    print(f"{out}: {said}", flush=True)
