import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ascl_lightning.data.batch import Features, ImageViews
from ascl_lightning.data.image_views import VIEWS, ViewKind, views_of
from ascl_lightning.data.sources import ExtractedFeatures
from ascl_lightning.data.sources.base import MissingSplitError
from ascl_lightning.data.stored_features import Manifest, TextRows, write_shard
from ascl_lightning.errors import UserError

CAPTIONS = {"a.jpg": ["one", "two"], "b.jpg": [], "c.jpg": ["three"]}


def table(folder: Path, *lengths: int) -> None:
    """Rows of so many tokens; the pooled vector is the row's number."""
    Manifest("tower", "items", len(lengths)).write(folder)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    pooled = torch.arange(float(len(lengths)))[:, None]
    write_shard(folder, 0, [Features(pooled, torch.ones(*mask.shape, 2), mask)], "float16")


def write(root: Path, split: str = "train", images: tuple[int, ...] = (1, 2, 1), texts: int = 3) -> Path:
    """What `ascl extract` leaves of a split of three images with three captions."""
    folder = root / split
    table(folder / "images", *images)
    table(folder / "texts", *[1] * texts)
    none = np.zeros((texts, 0), np.int64)
    TextRows(np.arange(texts), none, none, none).save(folder / "texts" / "rows")
    rows = enumerate(CAPTIONS.items())
    lines = [{"image": str(i), "image_id": name, "captions": captions} for i, (name, captions) in rows]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_images_by_their_ids_with_captions_and_features(tmp_path: Path) -> None:
    write(tmp_path)
    split = ExtractedFeatures().read(tmp_path, "train")
    assert list(split.image_ids) == list(CAPTIONS)
    assert list(split.captions) == [("one", "two"), (), ("three",)]
    assert split.images is None
    assert split.features.images.gather(torch.tensor([2, 0])).pooled[:, 0].tolist() == [2, 0]
    assert split.features.texts.captions(torch.tensor([1])).pooled[:, 0].tolist() == [1]


def test_an_image_without_tokens_could_not_be_read_and_is_not_visited(tmp_path: Path) -> None:
    write(tmp_path, images=(0, 2, 1))
    assert list(ExtractedFeatures().read(tmp_path, "train").captions) == [(), (), ("three",)]


def test_captions_keep_their_numbers(tmp_path: Path) -> None:
    np.save(write(tmp_path, "train") / "caption_ids.npy", np.array([7, 8, 9]))
    np.save(write(tmp_path, "test", images=(0, 2, 1)) / "caption_ids.npy", np.array([7, 8, 9]))
    np.save(write(tmp_path, "val") / "caption_ids.npy", np.array([7, 8]))
    assert ExtractedFeatures().read(tmp_path, "train").caption_ids.tolist() == [7, 8, 9]
    assert ExtractedFeatures().read(tmp_path, "test").caption_ids.tolist() == [9]
    with pytest.raises(UserError, match=r"caption_ids\.npy: does not hold 3 values"):
        ExtractedFeatures().read(tmp_path, "val")
    assert ExtractedFeatures().read(write(tmp_path / "old").parent, "train").caption_ids is None


def test_texts_are_encoded_while_training_where_their_features_are_missing(tmp_path: Path) -> None:
    shutil.rmtree(write(tmp_path) / "texts")
    features = ExtractedFeatures().read(tmp_path, "train").features
    assert features.texts is None
    assert features.images is not None


@pytest.mark.parametrize("split", ["test", "", "train/images", "../train"])
def test_a_missing_split_is_named_with_the_existing_ones(tmp_path: Path, split: str) -> None:
    write(tmp_path / "out")
    write(tmp_path / "out", "val")
    (tmp_path / "out" / "runs").mkdir()
    with pytest.raises(MissingSplitError, match=rf"there is no split '{split}'; .* train \(3\), val \(3\)"):
        ExtractedFeatures().read(tmp_path / "out", split)


def test_features_of_texts_alone_are_not_enough(tmp_path: Path) -> None:
    shutil.rmtree(write(tmp_path) / "images")
    with pytest.raises(UserError, match="train: holds no features of images; run `ascl extract`"):
        ExtractedFeatures().read(tmp_path, "train")


def test_captions_and_features_of_other_extractions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, images=(1, 2))
    with pytest.raises(UserError, match="images: 3 images and 2 rows; extract again"):
        ExtractedFeatures().read(tmp_path, "train")


@pytest.mark.parametrize("lost", ["images/00000", "texts/00000"])
def test_an_extraction_that_was_stopped_is_refused(tmp_path: Path, lost: str) -> None:
    shutil.rmtree(write(tmp_path) / lost)
    with pytest.raises(UserError, match="1 of 1 shards are missing; run the same `ascl extract` again"):
        ExtractedFeatures().read(tmp_path, "train")


def test_rows_of_texts_that_are_missing_are_named(tmp_path: Path) -> None:
    shutil.rmtree(write(tmp_path) / "texts" / "rows")
    with pytest.raises(UserError, match=r"rows/captions\.npy: there is no such file"):
        ExtractedFeatures().read(tmp_path, "train")


def test_the_root_must_be_given() -> None:
    with pytest.raises(UserError, match=r"set --data\.root to the folder that holds what `ascl extract --out` wrote"):
        ExtractedFeatures().read(None, "train")


@pytest.mark.parametrize(("views", "shown"), [(None, 2), ([], 1), (["flip"], 2), (["crops", "flip"], 2)])
def test_crops_are_tokens_and_not_views(tmp_path: Path, views: list[ViewKind] | None, shown: int) -> None:
    folder = write(tmp_path)
    with pytest.raises(
        UserError, match=r"crop_tokens needs crops, which are not stored; run `ascl extract` with --views"
    ):
        ExtractedFeatures(crop_tokens=True).read(tmp_path, "train")
    for view in views_of(["flip", "crops"]):
        table(folder / "views" / view.name, 2, 2, 2)
    features = ExtractedFeatures(views, crop_tokens=True).read(tmp_path, "train").features
    assert features.num_views == shown
    assert [crop.folder.name for crop in features.crops] == [view.name for view in VIEWS["crops"]]
    assert features.pooled_alone().crops == ()
    rows = torch.tensor([2, 0, 1])
    for batch in (features.every_view(rows), features.drawn(rows, torch.zeros(3, dtype=torch.long))):
        plain = batch.views[0] if isinstance(batch, ImageViews) else batch
        assert plain.mask.sum(dim=1).tolist() == [1, 1, 2]
        assert [crop.pooled[:, 0].tolist() for crop in plain.crops] == [[2, 0, 1]] * 5
    shutil.rmtree(folder / "views" / "crop_center")
    with pytest.raises(UserError, match="crop_tokens needs crops"):
        ExtractedFeatures([], crop_tokens=True).read(tmp_path, "train")
