import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ascl_lightning.metrics.choices import blind_scores, choice_results, is_preferred


def test_a_caption_must_beat_every_wrong_text():
    assert choice_results(np.array([[0.5, 0.4, 0.3]])) == {"accuracy": True}
    assert choice_results(np.array([[0.5, 0.4, 0.6]])) == {"accuracy": False}
    # equal but for rounding
    assert choice_results(np.array([[0.5, 0.4, 0.5 - 1e-7]])) == {"accuracy": False}


@pytest.mark.parametrize(
    ("scores", "text", "image"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], True, True),
        # the first image scores both texts higher: each image has its text, but the second text not its image
        ([[0.9, 0.8], [0.2, 0.7]], True, False),
        # the first text scores higher with both images
        ([[0.9, 0.1], [0.8, 0.7]], False, True),
        ([[0.1, 0.9], [0.8, 0.2]], False, False),
        ([[0.9, 0.1], [0.2, 0.2]], False, True),
        ([[0.9, 0.8], [0.2, 0.8]], True, False),
    ],
)
def test_two_by_two_by_hand(scores, text, image):
    assert choice_results(np.array(scores)) == {"text": text, "image": image, "group": text and image}


@pytest.mark.parametrize("shape", [(1, 2), (1, 5), (2, 2)])
def test_a_constant_scorer_solves_nothing(shape):
    assert not any(choice_results(np.full(shape, 0.3)).values())


@given(arrays(float, (2, 2), elements=st.integers(0, 4)))
def test_two_by_two_by_loops(scores):
    text = all(scores[i, i] > scores[i, 1 - i] for i in range(2))
    image = all(scores[i, i] > scores[1 - i, i] for i in range(2))
    assert choice_results(scores) == {"text": text, "image": image, "group": text and image}


def test_a_blind_picture_is_the_mean_of_the_other_images():
    """By numpy, text by text."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(7, 5, generator=generator), torch.randn(9, 5, generator=generator)
    left_out = torch.stack([torch.arange(9) % 7, (torch.arange(9) + 3) % 7], dim=1)
    expected = []
    for own, text in zip(left_out.tolist(), texts.numpy(), strict=True):
        mean = np.mean([image for row, image in enumerate(images.numpy()) if row not in own], axis=0)
        expected.append(mean @ text / np.linalg.norm(mean))
    np.testing.assert_allclose(blind_scores(images, left_out, texts), expected, rtol=1e-5)


def test_a_blind_picture_does_not_see_the_texts_own_image():
    """Of one direction each; the text is its own image, which all others oppose."""
    images, texts = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert blind_scores(images, torch.tensor([[0]]), texts).tolist() == [-1.0]
    with pytest.raises(ValueError, match="a mean without 1 of 1 images"):
        blind_scores(images[:1], torch.tensor([[0]]), texts)


def test_ties_are_not_preferences():
    captions, wrong = np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.4, 0.5, 0.5 - 1e-7, 0.6])
    assert is_preferred(captions, wrong).tolist() == [True, False, False, False]
