import numpy as np
import pytest
from PIL import Image

from ascl_lightning.callbacks.panels import comparisons_panel, overlay
from ascl_lightning.retrieval.comparisons import ORIGINAL, Comparison


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


def test_comparisons_say_which_texts_they_are_of():
    compared = [Comparison("type_iii", ("half", None), ORIGINAL, 0.25, 8)]
    assert comparisons_panel(compared).rows == [["type_iii", "T+ (half)", "T", 0.25, 8]]
