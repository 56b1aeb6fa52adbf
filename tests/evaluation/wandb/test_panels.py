import numpy as np
import pytest
import torch
from PIL import Image

from ascl_lightning.data.batch import Features, RegionSpec
from ascl_lightning.data.sources import Split
from ascl_lightning.data.views import SplitView
from ascl_lightning.evaluation.wandb.panels import comparisons_panel, found_panels, overlay
from ascl_lightning.metrics import RetrievalMetrics
from ascl_lightning.metrics.comparisons import ORIGINAL, Comparison


def test_an_overlay_leaves_the_brightest_place_and_darkens_the_others():
    """A grid of two by two over four pixels a side: far from the middle, a pixel has the weight of its quarter."""
    picture = Image.new("RGB", (40, 40), (200, 100, 40))
    pixels = np.asarray(overlay(picture, np.array([[0.5, 0.0], [0.25, 0.0]])))
    assert pixels[0, 0].tolist() == [200, 100, 40], "the largest weight"
    assert pixels[0, -1].tolist() == [50, 25, 10], "a quarter of the light where there is none"
    # half way between (50, 25, 10) and (200, 100, 40), the mask being 127 of 255
    assert pixels[-1, 0] == pytest.approx([125, 62.5, 25], abs=2)


def test_an_overlay_of_nothing_is_dark_everywhere():
    pixels = np.asarray(overlay(Image.new("RGB", (8, 8), (200, 100, 40)), np.zeros((2, 2))))
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {(50, 25, 10)}


def test_comparisons_name_their_texts():
    compared = [Comparison("type_iii", ("half", None), ORIGINAL, 0.25, 8)]
    assert comparisons_panel(compared).rows == [["type_iii", "T+ (half)", "T", 0.25, 8]]


def numbered(count: int) -> Features:
    """Items that know their number, for a score that looks it up."""
    return Features(torch.arange(float(count))[:, None], torch.zeros(count, 1, 1), torch.ones(count, 1).bool())


def test_results_without_images_have_ids():
    """Three images of extracted regions, the second without captions; only the last text goes wrong."""
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.0, 0.7, 0.5], [0.2, 0.3, 0.4]])
    metric = RetrievalMetrics(lambda i, t: scores[i.pooled[:, 0].long()][:, t.pooled[:, 0].long()])
    ids, owners = torch.arange(3), torch.tensor([0, 0, 2])
    metric.update(numbered(3), ids, numbered(3), ids, owners, torch.zeros(3, 2), torch.zeros(3, 2))
    split = Split(["a.jpg", "b.jpg", "c.jpg"], [("a dog", "a cat"), (), ("a boat",)], None)
    texts, images = found_panels(metric.gallery(), SplitView(split, RegionSpec(1, 1)))
    found = {(query, place): (image, round(score, 1), right) for query, place, _, image, score, right in texts.rows}
    assert found == {
        ("a dog", 1): ("a.jpg", 0.9, True),
        ("a dog", 2): ("c.jpg", 0.2, False),
        ("a dog", 3): ("b.jpg", 0.0, False),
        ("a cat", 1): ("a.jpg", 0.8, True),
        ("a cat", 2): ("b.jpg", 0.7, False),
        ("a cat", 3): ("c.jpg", 0.3, False),
        ("a boat", 1): ("b.jpg", 0.5, False),
        ("a boat", 2): ("c.jpg", 0.4, True),
        ("a boat", 3): ("a.jpg", 0.1, False),
    }
    assert [row[1:4] + row[5:] for row in images.rows] == [
        ["a.jpg", 1, "a dog", True],
        ["a.jpg", 2, "a cat", True],
        ["a.jpg", 3, "a boat", False],
        ["c.jpg", 1, "a boat", True],
        ["c.jpg", 2, "a cat", False],
        ["c.jpg", 3, "a dog", False],
    ]
    assert {row[2] for row in texts.rows} == {row[0] for row in images.rows} == {None}
