"""Pictures and texts as users have them."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.retrievers import pictures

from ascl_lightning.data.batch import PixelSpec, RegionSpec
from ascl_lightning.data.images import open_square, to_square
from ascl_lightning.data.inputs import picture_list, read_pictures, text_list
from ascl_lightning.errors import UserError

SPEC = PixelSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read(images, spec=SPEC):
    return read_pictures(picture_list(images, spec), spec)


def test_every_kind_of_picture_is_read_alike(tmp_path):
    (picture,) = pictures(1)
    array = picture.permute(1, 2, 0).numpy()
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    expected = torch.from_numpy(open_square(path, SPEC))
    kinds = [path, str(path), Image.fromarray(array), array, picture, picture / 255, array / np.float32(255)]
    assert torch.equal(read(kinds), expected.expand(7, -1, -1, -1))
    for one in kinds:
        assert torch.equal(read(one), expected[None])
    for many in (pictures(3), pictures(3).numpy().transpose(0, 2, 3, 1), list(pictures(3)), iter(pictures(3))):
        assert torch.equal(read(many), torch.cat([read(one) for one in pictures(3)]))


def test_grey_and_transparent_pictures_become_rgb():
    grey = [Image.new("L", (9, 9), 7), np.full((9, 9), 7, np.uint8), torch.full((1, 9, 9), 7, dtype=torch.uint8)]
    assert torch.equal(read(grey), torch.full((3, 3, 32, 32), 7, dtype=torch.uint8))
    clear = np.zeros((9, 9, 4), np.uint8)
    assert torch.equal(read(clear), torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)), "white, as in files"


def test_exif_orientation_is_applied_without_changing_the_input():
    wide = Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy())
    upright = wide.transpose(Image.Transpose.ROTATE_270)
    wide.getexif()[274] = 6
    assert np.array_equal(read(wide)[0].numpy(), to_square(upright, SPEC))
    assert wide.size == (48, 40)
    assert wide.getexif()[274] == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg: there is no such image file"),
        (None, "a NoneType is no picture"),
        ([Image.new("RGB", (4, 4)), 3], "picture 1 is a int"),
        (np.zeros((3, 40, 40), np.uint8), r"shape \(3, 40, 40\): give arrays \(height, width, 3\)"),
        (torch.zeros(40, 40, 3), r"picture 0 has shape \(40, 40, 3\)"),
        (np.full((4, 4, 3), 255.0), "outside 0 to 1"),
        (np.full((4, 4, 3), np.nan), "outside 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "holds int64"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
    ],
)
def test_an_unsupported_picture_is_a_user_error(given, message):
    with pytest.raises(UserError, match=message):
        read(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [(["a", " "], "text 1 is blank"), ([1], "text 0 is a int"), (b"a", "a bytes is no text")],
)
def test_an_unsupported_text_is_a_user_error(given, message):
    with pytest.raises(UserError, match=message):
        text_list(given)


def test_texts_are_cleaned():
    assert text_list("Two dogs!") == ["two dogs"]
    assert text_list(text for text in ("A", "b-c")) == ["a", "b c"]


def test_region_features_take_the_place_of_pictures(tmp_path):
    spec = RegionSpec(num_regions=4, dim=6)
    regions = np.random.default_rng(0).random((3, 5, 6), dtype=np.float32)
    np.save(tmp_path / "a.npy", regions[0])
    features = read(regions, spec)
    assert np.array_equal(features.tokens.numpy(), regions[:, :4])
    for one in (tmp_path / "a.npy", str(tmp_path / "a.npy"), regions[0], torch.from_numpy(regions[0])):
        assert torch.equal(read(one, spec).tokens, features.tokens[:1])
    with pytest.raises(UserError, match=r"picture 0: holds shape \(5, 5\), expected \(number of regions, 6\)"):
        read(regions[:, :, :5], spec)
    with pytest.raises(UserError, match=r"path of a \.npy file"):
        read(Image.new("RGB", (4, 4)), spec)
