import base64
import io

import numpy as np
import pytest
from PIL import Image

from ascl_lightning.data.batch import PixelSpec, RegionSpec
from ascl_lightning.data.images import ImageBytes
from ascl_lightning.data.sources import Split
from ascl_lightning.data.views import SplitView
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.page.pictures import original, thumbnail

PIXELS = PixelSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RED = Image.new("RGB", (400, 200), (200, 10, 10))


@pytest.mark.parametrize(("size", "shown"), [((400, 200), (128, 64)), ((16, 16), (128, 128)), ((1, 900), (1, 128))])
def test_a_thumbnail_keeps_the_picture_s_shape(size, shown):
    address = thumbnail(RED.resize(size), 128).removeprefix("data:image/webp;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(address)))
    assert picture.size == shown
    pixel = np.asarray(picture.convert("RGB"))[shown[1] // 2, shown[0] // 2]
    assert np.abs(pixel.astype(int) - (200, 10, 10)).max() < 12


def test_a_picture_is_found_wherever_it_lies(tmp_path):
    picture, file = RED.resize((50, 50)), tmp_path / "a.png"
    picture.save(file)
    images = [file, ImageBytes(file.read_bytes(), "archive, a"), np.asarray(picture)]
    view = SplitView(Split(["a", "b", "c"], [(), (), ()], images), PIXELS)
    assert [original(view, row).tobytes() for row in range(3)] == [picture.tobytes()] * 3
    rendered = SplitView(Split(["a"], [()], np.asarray(picture)[None]), PIXELS)
    assert original(rendered, 0).tobytes() == picture.tobytes()


def test_no_images_with_region_features_or_captions_only(tmp_path):
    assert original(SplitView(Split(["a"], [()], [tmp_path / "a.npy"]), RegionSpec(2, 3)), 0) is None
    assert original(SplitView(Split(["a"], [()], None), PIXELS), 0) is None


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"a\.png"):
        original(SplitView(Split(["a"], [()], [tmp_path / "a.png"]), PIXELS), 0)
