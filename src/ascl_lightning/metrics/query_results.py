"""Results of each query of an evaluation, by score and protocol; all metrics, intervals and p-values follow from them.

They are saved to `queries.parquet` in the run folder, one row per query, for comparing runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Integer

from ascl_lightning.errors import UserError
from ascl_lightning.runtime.files import atomic_file

RECALL_AT = (1, 5, 10)
Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
OWN = "own"
"""The default protocol: the only positives are pairs of an image and its own captions."""
SHARES = ("map_at_r", "r_precision", "ndcg")
"""Optional metrics of a query besides its rank, in [0, 1], 1 is best."""

_SCHEMA = pa.schema(
    {
        "score": pa.dictionary(pa.int32(), pa.string()),
        "protocol": pa.dictionary(pa.int32(), pa.string()),
        "direction": pa.dictionary(pa.int32(), pa.string()),
        "query": pa.int64(),
        "image": pa.int64(),
        "image_id": pa.string(),
        "rank": pa.int64(),
        "map_at_r": pa.float64(),
        "r_precision": pa.float64(),
        "ndcg": pa.float64(),
    }
)


@dataclass(frozen=True, eq=False)
class DirectionQueries:
    """Results of the queries of one direction; row i of every field belongs to the same query.

    Args:
        query: Number of the image or text in its split, (Q,).
        image: Number of the query's image, (Q,); the bootstrap draws the queries of an image together.
        image_id: Id of that image, (Q,).
        rank: Rank of the query's best positive, from 1, (Q,).
        map_at_r: Mean average precision at R, in [0, 1], (Q,); None if not measured.
        r_precision: Fraction of positives among the first R, in [0, 1], (Q,); None if not measured.
        ndcg: Normalised discounted cumulative gain, in [0, 1], (Q,); None if not measured.

    Raises:
        ValueError: If the fields differ in length, a query is repeated, or a value is out of range.
    """

    query: Integer[np.ndarray, " Q"]
    image: Integer[np.ndarray, " Q"]
    image_id: np.ndarray
    rank: Integer[np.ndarray, " Q"]
    map_at_r: Float[np.ndarray, " Q"] | None = None
    r_precision: Float[np.ndarray, " Q"] | None = None
    ndcg: Float[np.ndarray, " Q"] | None = None

    def __post_init__(self) -> None:
        columns = self.columns()
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns differ in length: {lengths}")
        if len(np.unique(self.query)) != len(self.query):
            raise ValueError("a query is repeated")
        lowest = {"query": 0, "image": 0, "rank": 1} | dict.fromkeys(SHARES, 0)
        for name in columns.keys() & lowest.keys():
            # negated to reject NaN too
            wrong = np.flatnonzero(~(columns[name] >= lowest[name]))
            if name in SHARES and len(wrong) == 0:
                wrong = np.flatnonzero(~(columns[name] <= 1 + 1e-6))
            if len(wrong):
                raise ValueError(f"{name} of query {self.query[wrong[0]]} is {columns[name][wrong[0]]}")

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.query)

    def in_order_of(self, other: "DirectionQueries") -> "DirectionQueries":
        """See `Queries.in_order_of`."""
        mine, others = (np.lexsort((rows.query, rows.image, rows.image_id.astype(str))) for rows in (self, other))
        if not np.array_equal(self.image_id[mine], other.image_id[others]):
            return self
        rows = np.empty_like(mine)
        rows[others] = mine
        about = {"query": other.query, "image": other.image, "image_id": other.image_id}
        return DirectionQueries(**{name: column[rows] for name, column in self.columns().items()} | about)

    def columns(self) -> dict[str, np.ndarray]:
        """The fields that are not None, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, eq=False)
class Queries:
    """Results of one score under one protocol, in both directions."""

    image_to_text: DirectionQueries
    text_to_image: DirectionQueries

    @classmethod
    def from_ranks(
        cls,
        image_to_text_ranks: Integer[np.ndarray, " N"],
        text_to_image_ranks: Integer[np.ndarray, " M"],
        image_of_text: Integer[np.ndarray, " M"],
        image_ids: Sequence[str],
        image_to_text: Mapping[str, Float[np.ndarray, " N"]] | None = None,
        text_to_image: Mapping[str, Float[np.ndarray, " M"]] | None = None,
    ) -> "Queries":
        """Builds the results from the ranks of a whole split.

        Args:
            image_to_text_ranks: Rank of each image's best text, (N,); 0 if the image is not a query.
            text_to_image_ranks: Rank of each text's best image, (M,); 0 if the text is not a query.
            image_of_text: Row of each text's image, (M,).
            image_ids: Id of each image, N of them.
            image_to_text: Values of `SHARES` for each image, (N,) each.
            text_to_image: Values of `SHARES` for each text, (M,) each.

        Returns:
            Results of the items with a rank above 0.

        Example:
            >>> queries = Queries.from_ranks(np.array([1, 0]), np.array([2, 1]), np.array([0, 0]), ["a", "b"])
            >>> len(queries.image_to_text), queries.text_to_image.image_id.tolist()
            (1, ['a', 'a'])
        """
        ids = np.asarray(image_ids, dtype=object)
        rows = np.arange(len(ids))
        return cls(
            _queries_of(image_to_text_ranks, rows, ids, image_to_text or {}),
            _queries_of(text_to_image_ranks, image_of_text, ids, text_to_image or {}),
        )

    def in_order_of(self, other: "Queries") -> "Queries":
        """Renumbers the queries like those of another run: images match by id, captions of an image by order.

        Args:
            other: Queries of another run.

        Returns:
            The renumbered queries; unchanged for a direction whose images differ from the other run's.
        """
        return Queries(*(rows.in_order_of(other.directions()[name]) for name, rows in self.directions().items()))

    def directions(self) -> dict[str, DirectionQueries]:
        """Both directions by name."""
        return {name: getattr(self, name) for name in DIRECTIONS}


def _queries_of(
    ranks: np.ndarray, images: np.ndarray, image_ids: np.ndarray, shares: Mapping[str, np.ndarray]
) -> DirectionQueries:
    query = np.flatnonzero(ranks)
    image = images[query]
    given = {name: values[query].astype(np.float64) for name, values in shares.items()}
    return DirectionQueries(query, image, image_ids[image], ranks[query], **given)


def write_queries(path: Path, queries: Mapping[tuple[str, str], Queries]) -> None:
    """Writes the queries of a run.

    Args:
        path: The Parquet file.
        queries: Queries by score and protocol.
    """
    from pyarrow import parquet

    tables = [
        _to_table({"score": score, "protocol": protocol, "direction": direction}, rows)
        for (score, protocol), both in queries.items()
        for direction, rows in both.directions().items()
    ]
    table = pa.concat_tables(tables).unify_dictionaries()
    with atomic_file(path) as file:
        parquet.write_table(table, file, compression="zstd")


def _to_table(names: Mapping[str, str], rows: DirectionQueries) -> "pa.Table":
    columns: dict[str, Any] = rows.columns() | {name: [value] * len(rows) for name, value in names.items()}
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(len(rows), field.type)
        for field in _SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def read_queries(path: Path) -> dict[tuple[str, str], Queries]:
    """Reads a file of `write_queries`.

    Args:
        path: The Parquet file.

    Returns:
        Queries by score and protocol, in file order.

    Raises:
        UserError: If the file does not exist, is damaged, or does not hold queries.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        missing = set(_SCHEMA.names) - set(table.column_names)
        if missing:
            raise UserError(f"{path}: not a file of queries: the column '{min(missing)}' is missing")
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; `ascl test` writes it to the run folder") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable file of queries: {error}") from error
    return _by_score(table, path)


def _by_score(table: "pa.Table", path: Path) -> dict[tuple[str, str], Queries]:
    queries = {}
    # one thread keeps the order
    for key in table.group_by(["score", "protocol"], use_threads=False).aggregate([]).to_pylist():
        rows = table.filter((pc.field("score") == key["score"]) & (pc.field("protocol") == key["protocol"]))
        try:
            both = {name: _from_table(rows.filter(pc.field("direction") == name)) for name in DIRECTIONS}
            if len(rows) == 0 or len(rows) > sum(map(len, both.values())):
                raise ValueError(f"a row has no score, no protocol, or a direction that is not one of {DIRECTIONS}")
        except ValueError as error:
            raise UserError(f"{path}, score '{key['score']}', protocol '{key['protocol']}': {error}") from error
        queries[key["score"], key["protocol"]] = Queries(**both)
    return queries


def _from_table(rows: "pa.Table") -> DirectionQueries:
    columns = {}
    for name in _SCHEMA.names[3:]:
        column = rows.column(name)
        if column.null_count == 0:
            columns[name] = column.to_numpy() if name != "image_id" else np.asarray(column.to_pylist(), dtype=object)
        elif name not in SHARES or column.null_count < len(column):
            raise ValueError(f"{column.null_count} values of {name} are missing")
    return DirectionQueries(**columns)
