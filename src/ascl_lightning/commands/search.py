"""`ascl search`: find pictures in a gallery."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import require_writable_file

if TYPE_CHECKING:
    from ascl_lightning.commands.search_output import Output
    from ascl_lightning.gallery.gallery import Gallery

NOTHING_FOUND = 1
"""Exit code if no query has a hit."""


def run(args: Sequence[str]) -> int:
    """Searches and prints the hits.

    Args:
        args: The command line, beginning with `search`.

    Returns:
        1 if nothing was found, else 0.

    Raises:
        UserError: If a flag, the gallery or a query is wrong.
    """
    given = search_parser().parse_args(args[1:])
    _check(given)

    # imports torch, for which --help does not wait
    from ascl_lightning.commands.search_output import output_of
    from ascl_lightning.gallery.gallery import Gallery

    with closing(Gallery.open(given.gallery, device=given.device)) as gallery:
        output = output_of(given, gallery)
        try:
            _answer(given, gallery, output)
            return 0 if output.close() else NOTHING_FOUND
        except BrokenPipeError:  # the reader, such as head, has enough; the interpreter flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def search_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="ascl search",
        description="Find pictures in a gallery that `ascl index` made: by a sentence, by a picture, or by both. The "
        "embeddings choose a shortlist, and the fused score sorts it. Words of the query that no hit shows are named "
        "on standard error. Exit code 1 if nothing is found.",
    )
    add = parser.add_argument
    add("query", nargs="?", metavar="QUERY", help="sentence to search for")
    add("--gallery", metavar="FOLDER", type=Path, required=True, help="folder that `ascl index` wrote")
    add("--image", metavar="FILE", type=Path, help="picture to search for, alone or with a sentence")
    add("--text_weight", metavar="W", type=float, default=0.5, help="weight of the sentence with --image; default: 0.5")
    add("--queries", metavar="FILE", help="file with a sentence per line; - reads standard input")
    add("--like", metavar="ID", type=int, action="append", default=[], help="be like this picture; may be repeated")
    add(
        "--unlike",
        metavar="ID|TEXT",
        type=_id_or_text,
        action="append",
        default=[],
        help="be unlike this picture or sentence; may be repeated",
    )
    add("--where", metavar="FILTER", help="condition, such as 'year >= 2024 and caption contains \"dog\"'")
    add("--k", metavar="N", type=_positive, default=10, help="number of hits; default: 10")
    add("--candidates", metavar="N", type=_positive, help="length of the shortlist; default: 100")
    add("--captions", action="store_true", help="list the captions that describe --image, instead of pictures")
    add(
        "--duplicates",
        metavar="COSINE",
        type=float,
        nargs="?",
        const=0.98,
        help="list pairs of pictures whose embeddings have at least this cosine; default: 0.98",
    )
    add("--device", metavar="DEVICE", help="default: the first GPU if there is one, else the CPU")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object per query and line")
    shape.add_argument("--csv", action="store_true", help="a table with a header")
    shape.add_argument("--paths0", action="store_true", help="only the files, each ended by a zero byte, for xargs -0")
    shape.add_argument("--out", metavar="FILE", type=Path, help="HTML page with the pictures")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _id_or_text(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _check(given: argparse.Namespace) -> None:
    asked = [given.query, given.image, given.queries, given.like or None, given.duplicates]
    if not any(one is not None for one in asked):
        raise UserError("ascl search: give a sentence, --image, --queries, --like or --duplicates")
    if given.query is not None and given.queries is not None:
        raise UserError("--queries: give sentences in the file or on the command line, not both")
    if given.captions and (given.image is None or given.query is not None or given.queries is not None):
        raise UserError("--captions: give --image alone; captions are searched by a picture")
    if given.captions and (given.out or given.paths0):
        raise UserError("--captions: prints sentences; leave out --paths0 and --out")
    if given.duplicates is not None and given.out:
        raise UserError("--duplicates: prints pairs of pictures; leave out --out")
    if given.out is not None:
        require_writable_file(given.out)


def _answer(given: argparse.Namespace, gallery: "Gallery", output: "Output") -> None:
    if given.duplicates is not None:
        output.duplicates(gallery.duplicates(given.duplicates))
    elif given.captions:
        output.captions(str(given.image), gallery.captions_of(given.image, given.k, candidates=given.candidates))
    else:
        _search(given, gallery, output)


def _search(given: argparse.Namespace, gallery: "Gallery", output: "Output") -> None:
    for text in _texts(given):
        results = gallery.search(
            text,
            given.image,
            text_weight=given.text_weight,
            like=given.like,
            unlike=given.unlike,
            where=given.where,
            k=given.k,
            candidates=given.candidates,
        )
        asked = text if text is not None else str(given.image or f"like {', '.join(map(str, given.like))}")
        about = f"'{asked}': " if given.queries is not None else ""
        if results.reason is not None:
            print(f"{about}Nothing found: {results.reason}", file=sys.stderr)
        elif results.unsupported:
            print(f"{about}No hit shows: {', '.join(results.unsupported)}", file=sys.stderr)
        output.results(asked, results)


def _texts(given: argparse.Namespace) -> Iterator[str | None]:
    """The sentences to search for; None for a search without one."""
    if given.queries is None:
        yield given.query
        return
    try:
        lines = sys.stdin.buffer.read() if given.queries == "-" else Path(given.queries).read_bytes()
        texts = [line.strip() for line in lines.decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--queries {given.queries}: cannot be read: {error}; give a text file in UTF-8") from error
    if not texts:
        raise UserError(f"--queries {given.queries}: has no sentence; give one per line")
    yield from texts
