"""Tables against a naive reader: the same split, or a refusal by both."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ascl_lightning.data.sources import JsonLines, ParquetTable, Split, tabular
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


def outcome(table: Table, root: Path) -> object:
    """Ids, captions and paths; None if the table is refused."""
    try:
        return summary(table.read(root, "train"))
    except UserError:
        return None


def naive(root: Path, lines: list[bytes], one_file: bool) -> object:
    """What `outcome` should be of JSON lines, written to be read."""
    images: dict[str, tuple[str, list[str], bool]] = {}
    try:
        rows = [json.loads(line.decode("utf-8" if i else "utf-8-sig")) for i, line in enumerate(lines) if line.strip()]
    except ValueError:
        return None
    if not all(isinstance(row, dict) and split_is_usable(row, one_file) for row in rows):
        return None
    splits = {row["split"] for row in rows if row.get("split") is not None}
    rows = [row for row in rows if not one_file or row["split"] == "train"]
    if not rows or (len(splits) > 1 and not one_file) or not all(map(is_usable, rows)):
        return None
    for row in rows:
        name, listed = row["image"], row.get("captions") is not None
        key = str(name if row.get("image_id") is None else row["image_id"])
        if key in images and (images[key][0] != name or listed or images[key][2]):
            return None
        images.setdefault(key, (name, [], listed))[1].extend(row["captions"] if listed else [row["caption"]])
    names = [str(root / name) for name, _, _ in images.values()]
    return list(images), [tuple(captions) for _, captions, _ in images.values()], names


def split_is_usable(row: dict[str, object], needed: bool) -> bool:
    return is_text(row.get("split")) or (row.get("split") is None and not needed)


def is_usable(row: dict[str, object]) -> bool:
    """Whether a name, an id and captions can be had of a row."""
    name, key, listed, single = (row.get(field) for field in ("image", "image_id", "captions", "caption"))
    captions = [single] if listed is None else listed
    if not is_text(name) or not (key is None or type(key) is int or is_text(key)):
        return False
    if not isinstance(captions, list) or not all(map(is_text, captions)) or None not in (listed, single):
        return False
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and path != Path() and "\0" not in name


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not any(0xD800 <= ord(c) < 0xE000 for c in value)


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
    assert outcome(table, tmp_path) == naive(tmp_path, [json.dumps(row).encode() for row in rows], one_file)


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
    assert outcome(JsonLines({"train": "t.jsonl"}), tmp_path) == naive(tmp_path, lines, one_file=False)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(PLAIN, min_size=1, max_size=6), listed=st.booleans(), one_file=st.booleans())
def test_parquet(tmp_path: Path, rows: list[dict[str, object]], listed: bool, one_file: bool) -> None:
    keep = ("image", "split", "image_id") + (("captions",) if listed else ("caption",))
    flat = rows if listed else [row | {"caption": text} for row in rows for text in row["captions"]]
    flat = [{field: row.get(field) for field in keep} for row in flat]
    parquet.write_table(pa.Table.from_pylist(flat), tmp_path / "t.parquet")
    table = ParquetTable("t.parquet" if one_file else {"train": "t.parquet"})
    assert outcome(table, tmp_path) == naive(tmp_path, [json.dumps(row).encode() for row in flat], one_file)


def test_captions_of_scattered_rows_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular, "_BLOCK", 4)
    singles = [{"image": f"{i % 3}.jpg", "caption": f"text {i}", "split": "train"} for i in range(9)]
    (tmp_path / "single.jsonl").write_text("".join(json.dumps(row) + "\n" for row in singles), encoding="utf-8")
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
