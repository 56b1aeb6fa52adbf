from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.layouts import LAYOUTS, write_json_lines, write_shards

from ascl_lightning.curation.check.entries import ShardEntries, ViewEntries
from ascl_lightning.data.batch import Features, PixelSpec
from ascl_lightning.data.sources import WebDataset
from ascl_lightning.data.sources.base import Shard
from ascl_lightning.data.stored_features import FeatureTable, Manifest, SplitFeatures, write_shard
from ascl_lightning.data.views import SplitView

SPEC = PixelSpec(16, (0.5,) * 3, (0.5,) * 3)
CONTENT = {"train": [(f"{i}.png", (f"caption {i}", "another")[: 1 + i % 2]) for i in range(7)]}


def shards(root: Path) -> list[Shard]:
    """Of three, three and one image."""
    source = WebDataset(write_shards(root, CONTENT, per_shard=3).patterns, "json", streaming=True)
    return list(source.shards(root, "train"))


def test_a_split_that_is_read_whole(tmp_path):
    split = write_json_lines(tmp_path, CONTENT).read(tmp_path, "train")
    entries = ViewEntries(SplitView(split, SPEC))
    read = list(entries)
    assert len(entries) == len(read) == 7
    assert [(place, texts) for place, texts, _ in read] == CONTENT["train"]
    assert all(facts.fault is None for _, _, facts in read)
    assert list(entries.captions) == [texts for _, texts in CONTENT["train"]]
    assert (entries.broken.count, entries.num_shards) == (0, 0)


def test_files_of_features_that_do_not_match_their_checksums_are_named(tmp_path, monkeypatch):
    """Also where a table is too large to be verified when it is opened."""
    monkeypatch.setattr("ascl_lightning.data.stored_features._VERIFIED_BYTES", 0)
    split = write_json_lines(tmp_path, CONTENT).read(tmp_path, "train")
    Manifest("tower", "items", 7).write(tmp_path / "images")
    tokens, mask = torch.ones(7, 2, 3), torch.ones(7, 2, dtype=torch.bool)
    write_shard(tmp_path / "images", 0, [Features(torch.ones(7, 3), tokens, mask)], "float16")
    file = tmp_path / "images" / "00000" / "tokens.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    features = SplitFeatures(FeatureTable(tmp_path / "images"))
    entries = ViewEntries(SplitView(split, SPEC, features=features))
    assert (entries.broken.count, entries.num_shards) == (1, 1)
    assert entries.broken.examples[0].startswith(str(file))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_source_is_read_by_several_threads(tmp_path, layout):
    content = {"train": [(f"{i}.png", (f"caption {i}",)) for i in range(150)]}
    split = LAYOUTS[layout].write(tmp_path, content).read(tmp_path, "train")
    read = list(ViewEntries(SplitView(split, SPEC)))
    assert {place: texts for place, texts, _ in read} == {
        LAYOUTS[layout].image_id(name): texts for name, texts in content["train"]
    }
    assert len({facts.content for _, _, facts in read if facts.fault is None}) == 150


def test_a_streamed_split_gives_the_same(tmp_path):
    streamed = ShardEntries(shards(tmp_path), SPEC)
    read = list(streamed)
    assert [texts for _, texts, _ in read] == [texts for _, texts in CONTENT["train"]]
    for number, (place, _, facts) in enumerate(read):
        assert place == streamed.places[number]
        assert place == f"{tmp_path}/train-{number // 3:06d}.tar, image {number % 3}"
        pixels = np.asarray(Image.open(tmp_path / "pictures" / f"{number}.png"))
        assert facts.size == pixels.shape[1::-1]
    assert len(streamed.places) == 7
    assert streamed.captions is None


@pytest.mark.parametrize("first", [b"no archive", b""])
def test_reading_continues_after_a_broken_shard(tmp_path, first):
    parts = shards(tmp_path)
    (tmp_path / "train-000000.tar").write_bytes(first)
    data = (tmp_path / "train-000001.tar").read_bytes()
    (tmp_path / "train-000001.tar").write_bytes(data[: data.rindex(b"\x89PNG") + 20])
    entries = ShardEntries(parts, SPEC)
    places = [place.removeprefix(f"{tmp_path}/train-") for place, _, _ in entries]
    assert places == ["000001.tar, image 0", "000001.tar, image 1", "000002.tar, image 0"]
    assert entries.broken.count == 2
    assert entries.num_shards == 3
    assert "train-000000.tar" in entries.broken.examples[0]
    assert "train-000001.tar" in entries.broken.examples[1]
