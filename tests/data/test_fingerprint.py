from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import LAYOUTS

from ascl_lightning.data.fingerprint import SplitDigest, picture_digests
from ascl_lightning.data.images import END_BYTES, ImageBytes
from ascl_lightning.data.sources import Split
from ascl_lightning.data.sources.base import Rows
from ascl_lightning.data.sources.mixture import Joined

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)


def split(rows: list[int], names: str = "abcd", captions: list[tuple[str, ...]] | None = None) -> Split:
    """Some of four pictures, under some names, with two captions each."""
    texts = [(f"picture {row}", f"also picture {row}") for row in rows] if captions is None else captions
    return Split(list(names[: len(rows)]), texts, PICTURES[rows])


def without_pictures(of: Split) -> Split:
    return replace(of, images=None)


def same(one: Split, other: Split) -> list[bool]:
    return SplitDigest.of(one).same_images(SplitDigest.of(other)).tolist()


def test_a_picture_is_identified_by_content_not_name():
    assert same(split([0, 1, 2]), split([2, 3], "xy")) == [False, False, True]
    assert same(split([0, 1]), split([2, 3])) == [False, False], "the same names"


def test_a_file_and_its_bytes_are_the_same_picture(tmp_path):
    for index in range(3):
        write_picture(tmp_path / f"{index}.png", index, (300, 200))
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    files = Split(["a", "b", "c"], [()] * 3, paths)
    packed = Split(["0", "1"], [()] * 2, [ImageBytes(paths[2].read_bytes(), "row 0"), ImageBytes(b"none", "row 1")])
    assert same(files, packed) == [False, False, True]


@pytest.mark.parametrize("size", [0, 1, END_BYTES, END_BYTES + 1, 2 * END_BYTES, 10 * END_BYTES])
def test_size_beginning_and_end_of_a_file_count(tmp_path: Path, size: int):
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    variants = {"same": content, "longer": content + b"\0"}
    if size:
        variants["first"] = bytes([content[0] ^ 1]) + content[1:]
        variants["last"] = content[:-1] + bytes([content[-1] ^ 1])
    for name, data in (variants | {"original": content}).items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in ("original", *variants)]
    original, *others = picture_digests(Split([path.name for path in paths], [()] * len(paths), paths)).tolist()
    assert [other == original for other in others] == [True] + [False] * (len(variants) - 1)


def test_only_the_ends_of_a_file_are_read(tmp_path: Path):
    """The middle may be anything: this is what makes 113,000 pictures cheap, and what the record cannot see."""
    ends, middles = bytes(END_BYTES), (b"one way", b"another")
    for name, middle in zip("ab", middles, strict=True):
        (tmp_path / name).write_bytes(ends + middle + ends)
    first, second = picture_digests(Split(["a", "b"], [(), ()], [tmp_path / "a", tmp_path / "b"]))
    assert first == second


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_tells_pictures_apart_as_their_files_do(tmp_path: Path, layout: str):
    content = {"train": [("a.png", ("one", "two")), ("b.png", ("three",)), ("c.png", ("four",))]}
    read = LAYOUTS[layout].write(tmp_path, content).read(tmp_path, "train")
    whole = [read.images[row] for row in range(len(read))]
    expected = picture_digests(Split(list(read.image_ids), list(read.captions), whole))
    assert len(set(expected.tolist())) == 3
    assert picture_digests(read).tolist() == expected.tolist()


@pytest.mark.parametrize("layout", ["webdataset", "hub_parquet"])
def test_pictures_inside_other_files_are_not_read_whole(tmp_path: Path, layout: str, monkeypatch):
    content = {"train": [("a.png", ("one",)), ("b.png", ("two",)), ("c.png", ("three",))]}
    read = LAYOUTS[layout].write(tmp_path, content).read(tmp_path, "train")
    expected = picture_digests(read).tolist()
    selected = read.select([2, 0])
    joined = Split(["d", "e", "f", "g"], [()] * 4, Joined([PICTURES[:2], selected.images]))
    inside = read.images._values if isinstance(read.images, Rows) else read.images
    monkeypatch.setattr(type(inside), "__getitem__", None)
    assert picture_digests(read).tolist() == expected
    of_pixels = picture_digests(split([0, 1])).tolist()
    assert picture_digests(joined).tolist() == [*of_pixels, expected[2], expected[0]]


def test_an_unreadable_picture_has_no_digest(tmp_path: Path):
    write_picture(tmp_path / "a.png", 0)
    read = picture_digests(Split(["a", "b"], [(), ()], [tmp_path / "a.png", tmp_path / "missing.png"]))
    assert (read > 0).tolist() == [True, False]


def test_without_pictures_on_one_side_name_and_caption_tell():
    """As with extracted features and region features; row numbers of two data sets are names too."""
    trained = without_pictures(split([0, 1, 2]))
    assert same(split([0, 1, 2]), trained) == [True, True, True]
    assert same(trained, split([0, 1, 2])) == [True, True, True]
    elsewhere = split([1, 3], "ab", [("picture 0",), ("picture 0",)])
    assert same(elsewhere, trained) == [True, False], "image b has another caption there"
    namesakes = SplitDigest.of(elsewhere).namesakes(SplitDigest.of(trained))
    assert namesakes.tolist() == [False, True]
    assert not SplitDigest.of(split([3], "x", [("picture 0",)])).namesakes(SplitDigest.of(trained)).any()


def test_namesakes_with_pictures_are_told_apart():
    assert not SplitDigest.of(split([0, 1])).namesakes(SplitDigest.of(split([2, 3]))).any()


def test_a_stream_digest_has_only_captions():
    streamed = SplitDigest.of_stream(split([0, 1]).captions)
    assert not streamed.knows_images
    assert SplitDigest.of(split([0, 1])).knows_images
    assert not SplitDigest.of(split([0, 1])).same_images(streamed).any()
    assert np.array_equal(streamed.captions, SplitDigest.of(split([0, 1])).captions)


def test_captions_are_hashed_after_clean_up():
    one, other = (SplitDigest.of(split([0], captions=[(text,)])) for text in ("A Dog!", "a dog"))
    assert one.captions.tolist() == other.captions.tolist()
    assert one.words == {"a", "dog"}


def test_a_fingerprint_changes_with_names_pictures_captions_and_order():
    plain = SplitDigest.of(split([0, 1, 2])).fingerprint
    assert plain == SplitDigest.of(split([0, 1, 2])).fingerprint
    assert all(len(part) == 16 and int(part, 16) >= 0 for part in plain.values())
    renamed = SplitDigest.of(split([0, 1, 2], "abx")).fingerprint
    assert (renamed["images"] == plain["images"], renamed["captions"] == plain["captions"]) == (False, True)
    regrouped = [("picture 0",), ("also picture 0", "picture 1", "also picture 1"), ("picture 2", "also picture 2")]
    others = [split([0, 2, 1]), split([0, 1]), split([0, 1, 2], captions=regrouped)]
    assert all(SplitDigest.of(other).fingerprint["captions"] != plain["captions"] for other in others)
    repainted = SplitDigest.of(replace(split([0, 1, 2]), images=PICTURES[[0, 1, 3]])).fingerprint
    assert (repainted["images"] == plain["images"], repainted["captions"] == plain["captions"]) == (False, True)


def test_a_fingerprint_for_any_order_changes_with_all_but_the_order_of_images():
    def of(*args, **kwargs) -> str:
        return SplitDigest.of(split(*args, **kwargs)).fingerprint["any_order"]

    plain = of([0, 1, 2])
    assert of([2, 0, 1], "cab") == plain
    turned = [("also picture 0", "picture 0"), ("picture 1", "also picture 1"), ("picture 2", "also picture 2")]
    moved = [("picture 0",), ("also picture 0", "picture 1", "also picture 1"), ("picture 2", "also picture 2")]
    others = [of([0, 1]), of([2, 0, 1]), of([0, 1, 3]), of([0, 1, 2], "abx")]
    others += [of([0, 1, 2], captions=captions) for captions in (turned, moved)]
    assert plain not in others


def test_a_text_state_round_trip():
    digest = SplitDigest.of(split([0, 1, 2], captions=[("a",), (), ("b", "c")]))
    state = digest.state()
    assert all(type(value) is str for value in state.values())
    back = SplitDigest.from_state(state)
    assert back.fingerprint == digest.fingerprint
    assert back.same_images(digest).all()
    with pytest.raises(ValueError, match="base64"):
        SplitDigest.from_state(state | {"ids": "~"})


def test_a_million_images_are_compared_by_sorting():
    """Of two splits of a million images with two captions each, one is shared."""
    numbers = np.arange(1, 2_000_000, dtype=np.uint64)
    first, second = numbers[:1_000_000], numbers[-1_000_000:]
    known, unknown = (first, second), (np.zeros_like(first), np.zeros_like(second))
    for pictures in (known, unknown):
        one, other = (
            SplitDigest(ids, seen, np.repeat(ids, 2), np.full(len(ids), 2))
            for ids, seen in zip(known, pictures, strict=True)
        )
        assert one.same_images(other).sum() == 1
