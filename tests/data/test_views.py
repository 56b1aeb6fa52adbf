from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers.datasets import write_picture

from ascl_lightning.data.augment.image_operations import Occlude, SideBySide
from ascl_lightning.data.batch import Features, PixelSpec, RegionSpec
from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources import Split
from ascl_lightning.data.stored_features import FeatureTable, Manifest, SplitFeatures, write_shard
from ascl_lightning.data.views import Augmentation, SplitView, collate_pictures, load_picture
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(8, (0.5,) * 3, (0.5,) * 3)
REGIONS = RegionSpec(2, 3)


def pictures(number: int = 3, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, size, size, 3), dtype=np.uint8)


def split(images: object = None) -> Split:
    return Split(["a", "b", "c"], [("x", "y"), (), ("z",)], images)  # type: ignore[arg-type]


def test_rows_of_an_images_captions() -> None:
    view = SplitView(split(pictures()), PIXELS)
    assert view.text_offsets.tolist() == [0, 2, 2, 3]
    assert [list(view.text_rows(row)) for row in range(3)] == [[0, 1], [], [2]]


def test_a_picture_is_pixels_bytes_or_a_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 0, size=(8, 8))
    path = tmp_path / "a.png"
    views = [SplitView(split([image] * 3), PIXELS) for image in (path, ImageBytes(path.read_bytes(), "a"))]
    first, second = (view.picture(1) for view in views)
    assert first.shape == (3, 8, 8)
    np.testing.assert_array_equal(first, second)
    array = pictures()
    np.testing.assert_array_equal(SplitView(split(array), PIXELS).picture(2), array[2].transpose(2, 0, 1))


def test_missing_input_of_an_encoder_is_named() -> None:
    for view, message in (
        (SplitView(split(pictures()), REGIONS), "takes region features: run `ascl extract --regions"),
        (SplitView(split(), PIXELS), "the source has captions only: set its `images`"),
    ):
        with pytest.raises(UserError, match=message):
            view.check_images()
        with pytest.raises(UserError, match=message):
            _ = view.images


def test_stored_features_take_the_pictures_place(tmp_path: Path) -> None:
    Manifest("tower", "items", 3).write(tmp_path)
    features = Features(torch.arange(3.0)[:, None], torch.ones(3, 1, 2), torch.ones(3, 1).bool())
    write_shard(tmp_path, 0, [features], "float16")
    view = SplitView(split(), PIXELS, features=SplitFeatures(FeatureTable(tmp_path)))
    assert view.picture(0) is None
    assert view.collate(torch.tensor([2, 0]), [None, None], [0, 0]).pooled[:, 0].tolist() == [2, 0]


def test_an_operation_replaces_the_random_crop() -> None:
    """A crop of what an operation left could show nothing of what the sentence says."""
    spec = PixelSpec(32, (0.5,) * 3, (0.5,) * 3)
    image, others = pictures(1, 64)[0], pictures(2, 64)
    whole, _ = load_picture(image, spec, Augmentation(), others, np.random.default_rng(0))
    changed = Augmentation(True, (Occlude(1.0),))
    for seed in range(20):
        found, operation = load_picture(image, spec, changed, others, np.random.default_rng(seed))
        assert operation == changed.operations[0]
        # a box of a tenth to three tenths of the area, grown by what the filter mixes in at its border
        assert 0.08 < (found != whole).any(axis=0).mean() < 0.55


def test_the_other_picture_is_drawn_from_the_split_and_must_be_readable() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    others = np.full((2, 64, 64, 3), 255, np.uint8)
    both, _ = load_picture(image, PIXELS, Augmentation(False, (SideBySide(1.0),)), others, np.random.default_rng(0))
    assert both.min() < 10 < 245 < both.max()
    bad = [ImageBytes(b"x", "here")]
    with pytest.raises(UserError, match="here: not a picture"):
        load_picture(image, PIXELS, Augmentation(False, (SideBySide(1.0),)), bad, np.random.default_rng(0))


def test_pictures_are_stacked() -> None:
    stacked = collate_pictures([np.zeros((3, 8, 8), np.uint8), np.ones((3, 8, 8), np.uint8)])
    assert stacked.dtype == torch.uint8
    assert stacked.flatten(1).sum(dim=1).tolist() == [0, 192]
