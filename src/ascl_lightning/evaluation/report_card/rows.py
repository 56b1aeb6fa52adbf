"""The file of a report card's single queries: ranks and scores at every level of every operation."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Integer
from pyarrow import parquet

from ascl_lightning.evaluation.report_card.curves import CardFigures, Outcome
from ascl_lightning.runtime.files import atomic_file

_WORDS = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "score": _WORDS,
        "direction": _WORDS,
        "operation": _WORDS,
        "level": pa.float64(),
        # row of the image or text in the split
        "query": pa.int64(),
        # row of the query's image in the split
        "image": pa.int64(),
        # for an image: whether one of its texts is changed
        "changed": pa.bool_(),
        "rank": pa.int64(),
        # score of a text with its image
        "own_score": pa.float64(),
        # score of a text with a blind picture
        "blind_score": pa.float64(),
    }
)
"""Schema of the file of `write_rows`."""


def write_rows(
    path: Path,
    figures: CardFigures,
    image_of_text: Integer[np.ndarray, " M"],
    image_rows: Integer[np.ndarray, " N"],
    text_rows: Sequence[int],
) -> None:
    """Writes a row for each query, operation, level and score; unchanged captions have the operation `unchanged`.

    Args:
        path: Parquet file to write.
        figures: The measured outcomes.
        image_of_text: Number of each caption's image.
        image_rows: Row of each image in the split.
        text_rows: Row of each caption in the split.
    """
    owner, tables = image_rows[image_of_text], []
    for score, operation, level, changed, outcome in _outcomes(figures):
        images = np.flatnonzero(outcome.image_ranks)
        of_changed, none = np.isin(images, image_of_text[changed]), np.full(len(images), np.nan)
        blind = np.full(len(owner), np.nan) if outcome.blind_scores is None else outcome.blind_scores
        for direction, columns in (
            ("image_to_text", (image_rows[images],) * 2 + (of_changed, outcome.image_ranks[images], none, none)),
            ("text_to_image", (np.array(text_rows), owner, changed, outcome.text_ranks, outcome.own_scores, blind)),
        ):
            size = len(columns[0])
            about = [pa.array([word] * size).dictionary_encode() for word in (score, direction, operation)]
            values = [pa.array(column, from_pandas=True) for column in (np.full(size, level), *columns)]
            tables.append(pa.table([*about, *values], schema=SCHEMA))
    table = pa.concat_tables(tables).unify_dictionaries()
    with atomic_file(path) as file:
        parquet.write_table(table, file, compression="zstd")


def _outcomes(figures: CardFigures) -> Iterator[tuple[str, str, float, Bool[np.ndarray, " M"], Outcome]]:
    for score, outcome in figures.unchanged.items():
        yield score, "unchanged", 0.0, np.zeros(len(outcome.text_ranks), bool), outcome
    for ladder in figures.ladders:
        for step in ladder.steps:
            for score, outcome in step.outcomes.items():
                yield score, ladder.operation, step.level, step.changed, outcome
