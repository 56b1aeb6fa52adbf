from pathlib import Path

import numpy as np
import pytest
from tests.helpers.datasets import write_picture

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySampler
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.data.datasets import MAX_REPLACEMENTS, EvalDataset, TextMaker, TrainDataset
from ascl_lightning.data.samplers import MixedPairs
from ascl_lightning.data.sources import Split
from ascl_lightning.data.sources.files import FolderImages
from ascl_lightning.data.views import Augmentation, SplitView
from ascl_lightning.errors import UserError

PIXELS = PixelSpec(8, (0.5,) * 3, (0.5,) * 3)
TEXTS = TextMaker(AsymmetrySampler((), ()), None, None, seed=3)
CAPTIONS = [("one", "one two"), (), ("one two three",)]


def view(root: Path, bad: set[int] = frozenset()) -> SplitView:
    names = [f"{i}.png" for i in range(3)]
    for i, name in enumerate(names):
        write_picture(root / name, i)
        if i in bad:
            (root / name).write_bytes(b"")
    return SplitView(Split(names, CAPTIONS, FolderImages(root, names)), PIXELS)


def training(of: SplitView) -> TrainDataset:
    return TrainDataset(of, MixedPairs((), of.split.num_captions, None, 3), TEXTS, Augmentation())


def test_a_pair_of_training(tmp_path: Path) -> None:
    dataset = training(view(tmp_path))
    items = [dataset[index, 0] for index in range(len(dataset))]
    assert [(item.image_row, item.text_row, item.texts.text) for item in items] == [
        (0, 0, "one"),
        (0, 1, "one two"),
        (2, 2, "one two three"),
    ]
    assert [dataset.caption_length(index, 0) for index in range(3)] == [1, 2, 3]
    assert len({item.key for item in items}) == 3
    assert all(item.faults == () and item.picture.shape == (3, 8, 8) for item in items)


def test_a_bad_picture_is_replaced_and_counted(tmp_path: Path) -> None:
    dataset = training(view(tmp_path, bad={0}))
    item = dataset[1, 0]
    assert (item.image_row, item.texts.text) == (2, "one two three")
    assert set(item.faults) == {
        f"{tmp_path / '0.png'}: not a picture of a known kind (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
    }
    assert dataset[1, 0].faults == item.faults
    assert dataset[2, 0].faults == ()


def test_pictures_that_are_all_bad_end_the_search(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{MAX_REPLACEMENTS} pictures in a row cannot be read; .* The first: .*png"):
        training(view(tmp_path, bad={0, 1, 2}))[0, 0]


def test_evaluation_brings_all_captions_and_notes_bad_pictures(tmp_path: Path) -> None:
    dataset = EvalDataset(view(tmp_path, bad={2}))
    items = [dataset[row, 0] for row in range(len(dataset))]
    assert [item.captions for item in items] == [["one", "one two"], [], ["one two three"]]
    assert [item.fault is None for item in items] == [True, True, False]
    np.testing.assert_array_equal(items[2].picture, np.zeros((3, 8, 8), np.uint8))
    assert EvalDataset(dataset.view, with_captions=False)[0, 0].captions == []
