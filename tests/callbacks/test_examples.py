import base64
import io

import numpy as np
import torch
from PIL import Image

from ascl_lightning.callbacks.examples import Result, Retrieval, thumbnail, top_results
from ascl_lightning.data.batch import PixelSpec, RegionSpec
from ascl_lightning.data.datasets import SplitView
from ascl_lightning.data.sources import Split

PIXELS = PixelSpec(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_results_come_best_first_with_what_belongs_to_the_query():
    scores = torch.tensor([[0.25, 0.75, 0.5], [0.125, 0.0, 1.0]])
    correct = torch.tensor([[False, True, False], [True, False, False]])
    assert top_results(scores, torch.tensor([7, 9]), correct) == [
        Retrieval(7, [Result(1, 0.75, True), Result(2, 0.5, False), Result(0, 0.25, False)]),
        Retrieval(9, [Result(2, 1.0, False), Result(0, 0.125, True), Result(1, 0.0, False)]),
    ]


def test_no_more_than_five_results_are_shown():
    (retrieval,) = top_results(torch.arange(9.0)[None], torch.tensor([0]), torch.zeros(1, 9, dtype=torch.bool))
    assert [result.row for result in retrieval.results] == [8, 7, 6, 5, 4]


def picture_of(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/webp;base64,"))))


def test_a_thumbnail_keeps_the_picture_s_shape(tmp_path):
    Image.new("RGB", (400, 200), (200, 10, 10)).save(tmp_path / "a.png")
    view = SplitView(Split(["a"], [()], [tmp_path / "a.png"]), PIXELS)
    picture = picture_of(thumbnail(view, 0))
    assert picture.size == (128, 64)
    assert np.abs(np.asarray(picture.convert("RGB"))[32, 64].astype(int) - (200, 10, 10)).max() < 12


def test_a_rendered_picture_has_a_thumbnail_too():
    view = SplitView(Split(["a"], [()], np.full((1, 16, 16, 3), 90, np.uint8)), PIXELS)
    assert picture_of(thumbnail(view, 0)).size == (128, 128)


def test_regions_have_none(tmp_path):
    assert thumbnail(SplitView(Split(["a"], [()], [tmp_path / "a.npy"]), RegionSpec(2, 3)), 0) is None
