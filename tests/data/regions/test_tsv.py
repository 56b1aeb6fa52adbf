from pathlib import Path

import numpy as np
import pytest
from tests.helpers.region_layouts import tsv_line

from ascl_lightning.data.batch import RegionSpec
from ascl_lightning.data.regions import RegionTsv, tsv
from ascl_lightning.errors import UserError

SPEC = RegionSpec(num_regions=3, dim=2)
ONES = np.ones((2, 2), np.float32)


def replaced(column: int, cell: bytes) -> bytes:
    cells = tsv_line("7", ONES).rstrip(b"\n").split(b"\t")
    cells[column] = cell
    return b"\t".join(cells)


def test_blank_lines_and_a_missing_last_newline_are_fine(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_bytes(b"\n" + tsv_line("1", ONES) + b"\r\n" + tsv_line(" 2 ", 2 * ONES).rstrip())
    opened = RegionTsv("r.tsv").open(tmp_path)
    assert opened.load(["1"], SPEC).pooled[0].tolist() == [1, 1]
    assert opened.load(["2"], SPEC).pooled[0].tolist() == [2, 2]


def test_decoding_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_bytes(replaced(5, b"!") + b"\n" + tsv_line("8", ONES))
    opened = RegionTsv("r.tsv").open(tmp_path)
    opened.load(["8"], SPEC)
    with pytest.raises(UserError, match=r"r\.tsv, line 1: field 'features' is damaged base64"):
        opened.load(["7"], SPEC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (replaced(3, b"3"), r"field 'features' holds 16 bytes, expected 24 \(num_boxes 3 x 2 float32\)"),
        (replaced(3, b"-1"), "field 'num_boxes' must be a whole number, not '-1'"),
        (replaced(3, b"9" * 5000), "field 'num_boxes' must be a whole number"),
        (replaced(5, b"AAAA"), "field 'features' holds 3 bytes, expected 16"),
        (replaced(5, b"AAA"), "field 'features' is damaged base64"),
        (replaced(5, b"AAAA AAAAAAAAAAAA"), "field 'features' is damaged base64"),
        (tsv_line("7", ONES)[:-4], "field 'features' is damaged base64"),
        (tsv_line("7", np.full((2, 2), np.inf)), "not finite"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "r.tsv").write_bytes(tsv_line("1", ONES) + line)
    opened = RegionTsv("r.tsv").open(tmp_path)
    with pytest.raises(UserError, match=rf"r\.tsv, line 2: .*{message}"):
        opened.load(["7"], SPEC)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b"7\t640\t480\t1\tAAAA\n",
            "has 5 columns, expected 6: image_id, image_w, image_h, num_boxes, boxes, features",
        ),
        (b"<html>\n", "has 1 columns, expected 6"),
        (replaced(0, b" "), "field 'image_id' is blank"),
        (replaced(0, b"\xff"), r"field 'image_id' is not UTF-8 text: '\\xff'"),
    ],
)
def test_lines_without_an_image_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "r.tsv").write_bytes(tsv_line("1", ONES) + line)
    with pytest.raises(UserError, match=rf"r\.tsv, line 2: {message}"):
        RegionTsv("r.tsv").open(tmp_path)


def test_endless_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "MAX_LINE", 1000)
    (tmp_path / "r.tsv").write_bytes(tsv_line("1", ONES) + bytes(2000))
    with pytest.raises(UserError, match=r"r\.tsv, line 2: is longer than 1,000 bytes"):
        RegionTsv("r.tsv").open(tmp_path)


@pytest.mark.parametrize(("second", "line"), [("a.tsv", 2), ("b.tsv", 1)])
def test_repeated_images_name_both_lines(tmp_path: Path, second: str, line: int) -> None:
    for name in ("a.tsv", second):
        with (tmp_path / name).open("ab") as file:
            file.write(tsv_line("7", ONES))
    with pytest.raises(UserError, match="field 'image_id' repeats the image '7'") as error:
        RegionTsv("*.tsv").open(tmp_path)
    assert f"{tmp_path / second}, line {line}" in str(error.value)
    assert f"{tmp_path / 'a.tsv'}, line 1" in str(error.value)


@pytest.mark.parametrize("pattern", ["*.tsv.*", "", "/no/such/*.tsv"])
def test_patterns_that_match_nothing_are_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="there is no file"):
        RegionTsv(pattern).open(tmp_path)


def test_a_pattern_may_be_absolute(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "r.tsv").write_bytes(tsv_line("7", ONES))
    opened = RegionTsv(str(tmp_path / "elsewhere" / "*.tsv")).open(tmp_path)
    assert opened.load(["7"], SPEC).mask[0].sum() == len(ONES)


def test_a_truncated_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.tsv").write_bytes(tsv_line("1", ONES) + tsv_line("7", ONES))
    opened = RegionTsv("r.tsv").open(tmp_path)
    (tmp_path / "r.tsv").write_bytes(tsv_line("1", ONES))
    with pytest.raises(UserError, match=r"r\.tsv, line 2: has 1 columns"):
        opened.load(["7"], SPEC)
    (tmp_path / "r.tsv").unlink()
    with pytest.raises(UserError, match=r"r\.tsv, line 2: cannot be read: No such file"):
        opened.load(["7"], SPEC)
