import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from ascl_lightning.data.batch import Features
from ascl_lightning.data.exclusion import Exclusion
from ascl_lightning.data.sources import Split
from ascl_lightning.data.sources.columns import CaptionColumn
from ascl_lightning.data.stored_features import (
    FeatureTable,
    Manifest,
    SplitFeatures,
    TextFeatures,
    TextRows,
    write_shard,
)
from ascl_lightning.errors import UserError

IDS = ["a", "b", "c"]
CAPTIONS = [("one", "two", "one"), (), ("two",)]


def split(**fields: object) -> Split:
    return Split(IDS, CAPTIONS, np.zeros((3, 4, 4, 3), np.uint8), **fields)


def write_list(path: Path, pairs: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"image_id": image_id, "caption": caption}) for image_id, caption in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_listed_pair_is_excluded_but_its_image_stays(tmp_path: Path) -> None:
    kept = Exclusion.read(write_list(tmp_path / "list.jsonl", [("a", "two"), ("c", "two"), ("x", "one")])).apply(
        split()
    )
    assert list(kept.captions) == [("one", "one"), (), ()]
    assert [kept.captions[row] for row in (0, -1)] == [("one", "one"), ()]
    assert kept.captions[0:2] == [("one", "one"), ()]
    assert kept.num_captions.tolist() == [2, 0, 0]
    assert list(kept.image_ids) == IDS
    assert kept.images is not None


def test_a_listing_excludes_the_last_copy_of_a_repeated_caption(tmp_path: Path) -> None:
    once = Exclusion.read(write_list(tmp_path / "once.jsonl", [("a", "one")])).apply(split())
    assert list(once.captions) == [("one", "two"), (), ("two",)]
    twice = Exclusion.read(write_list(tmp_path / "twice.jsonl", [("a", "one"), ("a", "one")])).apply(split())
    assert list(twice.captions) == [("two",), (), ("two",)]


def test_unflagged_pairs_of_a_triage_stay(tmp_path: Path) -> None:
    rows = {"image_id": ["a", "a", "c"], "caption": ["one", "two", "two"], "flags": [[], ["mismatched"], []]}
    flags = pa.list_(pa.string())
    schema = pa.schema([("image_id", pa.string()), ("caption", pa.string()), ("flags", flags), ("score", pa.float32())])
    parquet.write_table(pa.table({**rows, "score": [1.0, 0.5, 1.0]}, schema=schema), tmp_path / "triage.parquet")
    assert Exclusion.read(tmp_path / "triage.parquet").apply(split()).captions[0] == ("one", "one")
    # a list without flags is one of pairs to leave out, all of them
    parquet.write_table(pa.table({name: rows[name] for name in ("image_id", "caption")}), tmp_path / "list.parquet")
    assert list(Exclusion.read(tmp_path / "list.parquet").apply(split()).captions) == [("one",), (), ()]


def test_rows_of_stored_texts_follow(tmp_path: Path) -> None:
    """Captions one, two, one of image a and two of image c lie in rows 0, 1, 0, 1 of the table."""
    texts = Features(torch.tensor([[1.0], [2.0]]), torch.ones(2, 1, 1), torch.ones(2, 1, dtype=torch.bool))
    Manifest("encoder", "items", 2).write(tmp_path / "texts")
    write_shard(tmp_path / "texts", 0, [texts], "float16")
    none = np.zeros((4, 0), np.int64)
    stored = TextFeatures(FeatureTable(tmp_path / "texts"), TextRows(np.array([0, 1, 0, 1]), none, none, none))
    whole = split(features=SplitFeatures(texts=stored))
    kept = Exclusion.read(write_list(tmp_path / "list.jsonl", [("a", "one")])).apply(whole)
    assert kept.features.texts is not None
    # "one", "two" of image a and "two" of image c
    assert kept.features.texts.captions(torch.arange(3)).pooled.flatten().tolist() == [1.0, 2.0, 2.0]


def test_an_empty_list_changes_nothing(tmp_path: Path) -> None:
    whole = split()
    assert Exclusion.read(write_list(tmp_path / "list.jsonl", [])).apply(whole) is whole


def test_a_list_of_other_data_is_refused(tmp_path: Path) -> None:
    exclusion = Exclusion.read(write_list(tmp_path / "list.jsonl", [("a", "three"), ("b", "one")]))
    with pytest.raises(UserError, match=r"the training split has none of its 2 pairs"):
        exclusion.apply(split())


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"image_id": "a"}', "line 1.*caption"), ("[1]", "expected an object"), ("{", "broken JSON")],
)
def test_a_broken_row_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Exclusion.read(tmp_path / "list.jsonl")


def test_a_missing_file_or_other_format_is_a_user_error(tmp_path: Path) -> None:
    for name in ("list.jsonl", "list.parquet"):
        with pytest.raises(UserError, match=name):
            Exclusion.read(tmp_path / name)
    (tmp_path / "list.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        Exclusion.read(tmp_path / "list.parquet")


@given(
    captions=st.lists(st.lists(st.sampled_from("xyz"), max_size=4).map(tuple), min_size=1, max_size=4),
    listed=st.lists(st.tuples(st.integers(0, 3).map(str), st.sampled_from("xyz")), max_size=6),
)
def test_exactly_the_listed_pairs_are_excluded(captions: list[tuple[str, ...]], listed: list[tuple[str, str]]) -> None:
    ids = [str(row) for row in range(len(captions))]
    column = CaptionColumn(
        pa.chunked_array([pa.array([text for of in captions for text in of], pa.string())]),
        np.array([len(of) for of in captions]),
    )
    pairs = {pair: listed.count(pair) for pair in listed}
    for held in (captions, column):
        try:
            kept = Exclusion(Path("list"), pairs, "").apply(Split(ids, held, None))
        except UserError:
            assert not any(
                text in captions[row] for row in range(len(ids)) for text in "xyz" if (str(row), text) in pairs
            )
            continue
        for row, image_id in enumerate(ids):
            for text in "xyz":
                there = captions[row].count(text)
                assert kept.captions[row].count(text) == max(0, there - pairs.get((image_id, text), 0))
        assert kept.num_captions.tolist() == [len(of) for of in kept.captions]
