"""The same assertions over every source of files."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import ALL_LAYOUTS, LAYOUTS, Content, picture_of, write_mixture

from ascl_lightning.data.datamodule import RetrievalDataModule
from ascl_lightning.data.sources import Source, Split
from ascl_lightning.errors import UserError

CONTENT: Content = {
    "train": [
        ("a.png", ("A dog runs .", 'Ein Hund läuft über 🟢 Gras , "schnell"')),
        ("b.png", ("three, captions", "כלב רץ", "A dog runs .")),
        ("c.png", ("one " * 400 + "end",)),
        ("d.png", ("x",)),
        ("e.png", ("last", "\u202eright to left", "mid\ttab")),
    ],
    "val": [("f.png", ("a cat",)), ("g.png", ("a cat", "another"))],
    "test": [("h.png", ("only",) * 7)],
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def source(layout: str, tmp_path: Path) -> Source:
    return LAYOUTS[layout].write(tmp_path, CONTENT)


@pytest.mark.parametrize("split", CONTENT)
def test_ids_captions_and_pictures(source: Source, layout: str, tmp_path: Path, split: str) -> None:
    read = source.read(tmp_path, split)
    assert by_id(read) == {LAYOUTS[layout].image_id(name): texts for name, texts in CONTENT[split]}
    assert read.num_captions.tolist() == [len(texts) for texts in read.captions]
    numbers = {LAYOUTS[layout].image_id(name): i for i, name in enumerate(all_names())}
    for row, image_id in enumerate(read.image_ids):
        write_picture(tmp_path / "expected.png", numbers[image_id])
        expected = picture_of(tmp_path / "expected.png")
        np.testing.assert_array_equal(np.asarray(picture_of(read.images[row])), np.asarray(expected))


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_a_missing_split_is_named(layout: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no split 'restval'"):
        ALL_LAYOUTS[layout].write(tmp_path, CONTENT).read(tmp_path, "restval")


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_rows_can_be_read_in_any_order_and_twice(layout: str, tmp_path: Path) -> None:
    source, split = ALL_LAYOUTS[layout].write(tmp_path, CONTENT), ALL_LAYOUTS[layout].split
    read, again = source.read(tmp_path, split), source.read(tmp_path, split)
    assert list(read.image_ids) == list(again.image_ids)
    for row in (4, 0, 2, 0):
        assert picture_of(read.images[row]).tobytes() == picture_of(again.images[row]).tobytes()
        assert read.captions[row] == again.captions[row]


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_a_source_opens_no_file_before_read(layout: str, tmp_path: Path) -> None:
    written = ALL_LAYOUTS[layout].write(tmp_path, CONTENT)
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    try:
        with pytest.raises(UserError):
            written.read(tmp_path, ALL_LAYOUTS[layout].split)
    finally:
        moved.rename(tmp_path)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=30).filter(
    lambda text: bool(text.strip())
)
CAPTIONS = st.lists(WORDS | st.sampled_from(["🐕", "A B", "כלב", "x " * 10_000]), max_size=12)


@pytest.mark.parametrize(
    "name", ["jsonl", "csv", "parquet", "karpathy", "coco", "flickr_tokens", "caption_folder", "webdataset"]
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(CAPTIONS, min_size=1, max_size=5).filter(any))
def test_any_number_of_any_captions(name: str, tmp_path_factory, captions: list[list[str]]) -> None:
    layout = LAYOUTS[name]
    root = tmp_path_factory.mktemp(name)
    texts = [[" ".join(text.split()) for text in of_image] for of_image in captions]
    content = {"train": [(f"{i}.png", tuple(of_image)) for i, of_image in enumerate(texts)]}
    if layout.needs_captions:
        content["train"] = [(image, of_image) for image, of_image in content["train"] if of_image]
    read = layout.write(root, content).read(root, "train")
    assert by_id(read) == {layout.image_id(image): of_image for image, of_image in content["train"]}
    assert read.num_captions.sum() == sum(map(len, texts))


def test_a_mixture_joins_its_sources(tmp_path: Path) -> None:
    read = write_mixture(tmp_path, CONTENT).read(tmp_path, "train")
    assert by_id(read) == {f"{'a' if i < 2 else 'b'}/{name}": texts for i, (name, texts) in enumerate(CONTENT["train"])}
    assert read.passes == ((2, 1.0), (3, 1.0))


def all_names() -> list[str]:
    return [name for images in CONTENT.values() for name, _ in images]


def by_id(split: Split) -> dict[str, tuple[str, ...]]:
    return dict(zip(split.image_ids, split.captions, strict=True))


def test_a_listed_pair_is_excluded_from_training_only(source: Source, tmp_path: Path) -> None:
    whole = source.read(tmp_path, "train")
    pairs = [(name, text) for name, texts in zip(whole.image_ids, whole.captions, strict=True) for text in texts]
    listed = [{"image_id": name, "caption": text} for name, text in pairs[1::3]]
    file = tmp_path / "left-out.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in listed), encoding="utf-8")
    datamodule = RetrievalDataModule(source, str(tmp_path), exclude=str(file))
    kept = datamodule.read("train")
    left = [(name, text) for name, texts in zip(kept.image_ids, kept.captions, strict=True) for text in texts]
    assert left == [pair for number, pair in enumerate(pairs) if number % 3 != 1]
    assert list(kept.image_ids) == list(whole.image_ids)
    assert list(datamodule.read("val").captions) == list(source.read(tmp_path, "val").captions)
