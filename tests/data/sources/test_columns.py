"""Whole columns against row by row: the same split, or the same refusal."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ascl_lightning.data.sources import JsonLines, ParquetTable, Split
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.data.sources.tabular import Table
from ascl_lightning.errors import UserError

TEXT = st.sampled_from(["a dog", "🐕", " ", "", "\u3000", "\x1c", "כלב", "...", "a\tb", "0", "x" * 500, "\u2028"])
NAME = st.sampled_from(
    ["a.jpg", "b.jpg", "sub/c.jpg", "../d.jpg", "/e.jpg", "", ".", "f\x00", "g\\h.jpg", "i..jpg", "..j"]
)
VALUE = st.none() | TEXT | st.integers(0, 9) | st.lists(TEXT | st.none(), max_size=3)
ROW = st.fixed_dictionaries(
    {"image": NAME | st.sampled_from(["a.jpg", "b.jpg", "k.jpg"])},
    optional={
        "captions": st.lists(TEXT, max_size=4) | VALUE,
        "caption": TEXT | VALUE,
        "image_id": st.sampled_from(["1", "2", "3"]) | VALUE,
        "split": st.sampled_from(["train", "train", "val"]) | VALUE,
        "extra": VALUE,
    },
)
PLAIN = st.builds(
    lambda name, texts, extra: {"image": f"{name}.jpg", "captions": texts} | extra,
    st.integers(0, 30),
    st.lists(st.sampled_from(["a dog", "🐕", "כלב", "..."]), max_size=9),
    st.sampled_from([{}, {"extra": [1, {"a": None}]}, {"image_id": "7"}, {"split": "train"}]),
)


def outcome(table: Table, root: Path, columns: bool) -> object:
    """What reading gives: ids, captions and paths, or the error's text."""
    try:
        if columns:
            split = table.read(root, "train")
        else:
            file = root / (table.files if isinstance(table.files, str) else table.files["train"])
            split = table._read_rows(file, "train", root / table.images)
    except UserError as error:
        return type(error) is MissingSplitError, str(error)
    return summary(split)


def summary(split: Split) -> tuple[object, ...]:
    paths = [str(split.images.folder / name) for name in split.images.names]
    captions = list(split.captions)
    assert [split.captions[i] for i in range(len(captions))] == captions
    assert split.num_captions.tolist() == [len(texts) for texts in captions]
    return list(split.image_ids), captions, paths


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[{"image": "a.jpg", "captions": "é"}], one_file=False)  # which Arrow takes for a list
@given(rows=st.lists(ROW, min_size=1, max_size=5) | st.lists(PLAIN, min_size=1, max_size=8), one_file=st.booleans())
def test_json_lines(tmp_path: Path, rows: list[dict[str, object]], one_file: bool) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = JsonLines("t.jsonl" if one_file else {"train": "t.jsonl"})
    assert outcome(table, tmp_path, columns=True) == outcome(table, tmp_path, columns=False)


LINES = st.sampled_from(
    [
        *(b'{"image": "a.jpg", "captions": ["x"]}', b'{"image": "b.jpg", "captions": ["y", "z"]}', b"", b"  "),
        *(
            b'{"image": "c.jpg", "captions": []}{"image": "d.jpg", "captions": []}',
            b'{"image": "e.jpg",',
            b'"captions": []}',
        ),
        *(b'{"image": "f.jpg", "captions": ["\xff"]}', b'{"image": "g.jpg", "captions": [], "extra": "\xff"}'),
        *(b'{"image": "h.jpg", "captions": [], "captions": ["x"]}', b'{"image": "i.jpg", "captions": ["\\ud83d"]}'),
        *(
            b'{"image": "j.jpg", "captions": [], "n": NaN}',
            b"[1]",
            b"null",
            b"\xef\xbb\xbf{}",
            b'{"image": "k.jpg", "captions": ["a\x01b"]}',
        ),
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=4), ending=st.sampled_from([b"", b"\n", b"\r\n"]))
def test_broken_json_lines(tmp_path: Path, lines: list[bytes], ending: bytes) -> None:
    (tmp_path / "t.jsonl").write_bytes((ending or b"\n").join(lines) + ending)
    table = JsonLines({"train": "t.jsonl"})
    assert outcome(table, tmp_path, columns=True) == outcome(table, tmp_path, columns=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(PLAIN, min_size=1, max_size=6), listed=st.booleans(), one_file=st.booleans())
def test_parquet(tmp_path: Path, rows: list[dict[str, object]], listed: bool, one_file: bool) -> None:
    keep = ("image", "split", "image_id") + (("captions",) if listed else ("caption",))
    flat = rows if listed else [row | {"caption": text} for row in rows for text in row["captions"]]
    parquet.write_table(pa.Table.from_pylist([{k: row.get(k) for k in keep} for row in flat]), tmp_path / "t.parquet")
    table = ParquetTable("t.parquet" if one_file else {"train": "t.parquet"})
    assert outcome(table, tmp_path, columns=True) == outcome(table, tmp_path, columns=False)


def test_the_quick_way_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary files never go row by row."""
    monkeypatch.setattr(Table, "_read_rows", None)
    rows = [{"image": f"{i}.jpg", "captions": ["a dog", "🐕"], "other": i} for i in range(5)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    singles = [{"image": f"{i % 3}.jpg", "caption": f"text {i}", "split": "train"} for i in range(9)]
    (tmp_path / "single.jsonl").write_text("".join(json.dumps(row) + "\n" for row in singles), encoding="utf-8")
    assert len(JsonLines({"train": "list.jsonl"}).read(tmp_path, "train")) == 5
    split = JsonLines("single.jsonl").read(tmp_path, "train")
    assert summary(split)[1] == [
        ("text 0", "text 3", "text 6"),
        ("text 1", "text 4", "text 7"),
        ("text 2", "text 5", "text 8"),
    ]


def test_columns_behave_as_lists(tmp_path: Path) -> None:
    rows = [{"image": f"{i}.jpg", "captions": [f"{i} {j}" for j in range(i)]} for i in range(4)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = JsonLines({"train": "t.jsonl"}).read(tmp_path, "train")
    assert split.captions[-1] == ("3 0", "3 1", "3 2")
    assert split.captions[1:3] == [("1 0",), ("2 0", "2 1")]
    assert split.image_ids[-1] == "3.jpg"
    assert split.image_ids[1:3] == ["1.jpg", "2.jpg"]
    with pytest.raises(IndexError):
        split.captions[4]


def test_pictures_inside_a_parquet_file_are_read_elsewhere(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [b"\xff\xd8"], "caption": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column 'image' holds binary, not paths; .* HubDataset"):
        ParquetTable({"train": "t.parquet"}).read(tmp_path, "train")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet file"):
        ParquetTable({"train": "t.parquet"}).read(tmp_path, "train")
    with pytest.raises(UserError, match=r"there is no file .*gone\.parquet"):
        ParquetTable({"train": "gone.parquet"}).read(tmp_path, "train")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of memory as Linux tells it")
def test_a_million_rows_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    """In a process of its own: the peak of a process never falls again."""
    import subprocess
    import sys

    with (tmp_path / "train.jsonl").open("w") as file:
        for i in range(1_000_000):
            row = {
                "image": f"{i // 1000:04d}/{i:09d}.jpg",
                "captions": [f"A dog number {i} runs over grass .", f"Two people and {i} ."],
            }
            file.write(json.dumps(row) + "\n")
    # not `ru_maxrss`, which begins with the peak of whoever started the process
    script = f"""
from pathlib import Path
from ascl_lightning.data.sources import JsonLines
split = JsonLines({{"train": "train.jsonl"}}).read(Path({str(tmp_path)!r}), "train")
assert len(split) == 1_000_000 and split.captions[999_999][1] == "Two people and 999999 ."
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1e9
