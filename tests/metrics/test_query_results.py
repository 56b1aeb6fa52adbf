from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ascl_lightning.errors import UserError
from ascl_lightning.metrics.query_results import Queries, read_queries, write_queries

# image 1 has no text, text 2 is not a query
IMAGE_RANKS, TEXT_RANKS, IMAGE_OF_TEXT = np.array([3, 0, 1]), np.array([2, 5, 0]), np.array([2, 0, 0])
IDS = ["a.jpg", "b.jpg", "c.jpg"]


def make_queries(**shares):
    return Queries.from_ranks(IMAGE_RANKS, TEXT_RANKS, IMAGE_OF_TEXT, IDS, **shares)


def as_lists(rows):
    return {name: column.tolist() for name, column in rows.columns().items()}


def test_only_queries_are_kept():
    queries = make_queries(text_to_image={"ndcg": np.array([0.25, 1.0, np.nan])})

    assert as_lists(queries.image_to_text) == {
        "query": [0, 2],
        "image": [0, 2],
        "image_id": ["a.jpg", "c.jpg"],
        "rank": [3, 1],
    }
    assert as_lists(queries.text_to_image) == {
        "query": [0, 1],
        "image": [2, 0],
        "image_id": ["c.jpg", "a.jpg"],
        "rank": [2, 5],
        "ndcg": [0.25, 1.0],
    }


def test_a_file_gives_back_what_was_written(tmp_path):
    shares = {name: np.array([0.5, 0.0, 1.0]) for name in ("map_at_r", "r_precision")}
    written = {
        ("fused", "own"): make_queries(),
        ("fused", "eccv"): make_queries(image_to_text=shares),
        ("global", "own"): make_queries(text_to_image=shares),
    }

    write_queries(tmp_path / "queries.parquet", written)
    read = read_queries(tmp_path / "queries.parquet")

    assert list(read) == list(written)
    for key, queries in written.items():
        for direction, rows in queries.directions().items():
            assert as_lists(getattr(read[key], direction)) == as_lists(rows)


def test_a_direction_without_queries_is_kept(tmp_path):
    queries = Queries.from_ranks(np.array([1]), np.array([0]), np.array([0]), ["a"])

    write_queries(tmp_path / "queries.parquet", {("fused", "own"): queries})

    assert len(read_queries(tmp_path / "queries.parquet")["fused", "own"].text_to_image) == 0


def test_other_tools_can_read_the_file(tmp_path):
    write_queries(tmp_path / "queries.parquet", {("fused", "own"): make_queries()})

    assert parquet.read_table(tmp_path / "queries.parquet").to_pylist()[0] == {
        "score": "fused",
        "protocol": "own",
        "direction": "image_to_text",
        "query": 0,
        "image": 0,
        "image_id": "a.jpg",
        "rank": 3,
        "map_at_r": None,
        "r_precision": None,
        "ndcg": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": np.array([1, 0])}, "rank of query 2 is 0"),
        ({"image_id": np.array(["a.jpg"])}, "columns differ in length"),
        ({"query": np.array([2, 2])}, "a query is repeated"),
        ({"image": np.array([0, -1])}, "image of query 2 is -1"),
        ({"ndcg": np.array([0.5, np.nan])}, "ndcg of query 2 is nan"),
        ({"map_at_r": np.array([1.5, 0.0])}, r"map_at_r of query 0 is 1\.5"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make_queries().image_to_text, **change)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "queries.parquet"
    with pytest.raises(UserError, match=r"no file .*queries\.parquet"):
        read_queries(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match="not a readable file of queries"):
        read_queries(path)
    parquet.write_table(pa.table({"score": ["fused"]}), path)
    with pytest.raises(UserError, match="column 'direction' is missing"):
        read_queries(path)


def test_errors_in_a_file_name_the_place(tmp_path):
    path = tmp_path / "queries.parquet"
    write_queries(path, {("fused", "own"): make_queries()})
    table = parquet.read_table(path)
    place = table.column_names.index("rank")

    parquet.write_table(table.set_column(place, "rank", pa.array([3, 0, 1, 1])), path)
    with pytest.raises(UserError, match=r"queries\.parquet, score 'fused', protocol 'own': rank of query 2 is 0"):
        read_queries(path)
    parquet.write_table(table.set_column(place, "rank", pa.array([3, None, 1, 1])), path)
    with pytest.raises(UserError, match="1 values of rank are missing"):
        read_queries(path)


@pytest.mark.parametrize("column", ["score", "direction"])
def test_rows_without_a_place_are_refused(tmp_path, column):
    path = tmp_path / "queries.parquet"
    write_queries(path, {("fused", "own"): make_queries()})
    table = parquet.read_table(path)

    parquet.write_table(table.set_column(table.column_names.index(column), column, pa.array(["fused", None] * 2)), path)

    with pytest.raises(UserError, match="a row has no score"):
        read_queries(path)
