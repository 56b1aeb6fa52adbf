import numpy as np
import pytest
import torch
from tests.helpers.planted import planted_gallery, planted_similarity, planted_tokenizer

from ascl_lightning.search import word_support
from ascl_lightning.search.word_support import PairSupport, UsualSupport, pair_support

CAPTIONS = [["a red dog", "a blue dog"], [], ["cat"]]


def planted_support(images: list[int], texts: list[int]) -> PairSupport:
    gallery = planted_gallery(["a red dog", "a blue cat", "a cat"], CAPTIONS)
    captions = [caption for of_image in CAPTIONS for caption in of_image]
    numbers = torch.tensor(images), torch.tensor(texts)
    return pair_support(planted_similarity(), planted_tokenizer(), gallery, captions, *numbers)


def test_a_word_is_supported_by_the_region_that_shows_it_and_by_no_other() -> None:
    found = planted_support([0, 0, 1], [0, 1, 2])
    assert found.words.tolist() == ["a", "red", "dog", "a", "blue", "dog", "cat"]
    assert found.pairs.tolist() == [0, 0, 0, 1, 1, 1, 2]
    np.testing.assert_allclose(found.support, [1, 1, 1, 1, 0, 1, 1], atol=1e-6)
    # regions a, red, dog by all words; a, dog by "a blue dog"; of a, blue, cat the last by "cat"
    np.testing.assert_allclose(found.coverage, [1, 2 / 3, 1 / 3], atol=1e-6)


def test_passes_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = planted_support([0, 0, 1], [0, 1, 2])
    monkeypatch.setattr(word_support, "_PAIRS_PER_PASS", 2)
    found = planted_support([0, 0, 1], [0, 1, 2])
    for name in ("words", "pairs"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    np.testing.assert_allclose(found.support, expected.support, atol=1e-6)
    np.testing.assert_allclose(found.coverage, expected.coverage, atol=1e-6)


def test_usual_support_by_hand() -> None:
    """Ten occurrences of "dog" with support 1 in their own pictures and 0 in others, ten of "a" with 0.5 in both.

    Means of all: 0.75 and 0.25. Mixed half and half: "dog" 0.875 and 0.125, "a" 0.625 and 0.375.
    """
    words = np.array(["dog"] * 10 + ["a"] * 10)
    own, other = np.array([1.0] * 10 + [0.5] * 10), np.array([0.0] * 10 + [0.5] * 10)
    usual = UsualSupport.of(words, own, other)
    assert usual.own[usual.place["dog"]] == pytest.approx(0.875)
    assert usual.other[usual.place["dog"]] == pytest.approx(0.125)
    assert usual.own[usual.place["a"]] == pytest.approx(0.625)
    # every deviation is 1/8: of "dog" from 7/8 and 1/8, of "a" from 5/8 and 3/8
    np.testing.assert_allclose(usual.spread, 0.125)
    # log-likelihood ratios of two normals 0.75 apart, 6 spreads: 18 at their means, 0 half way
    np.testing.assert_allclose(usual.doubt(["dog"] * 3, np.array([0.875, 0.5, 0.125])), [-18, 0, 18])
    # a word that was never met: the means of all, 0.75 and 0.25; 4 spreads apart
    np.testing.assert_allclose(usual.doubt(["bird"], np.array([0.25])), [8])


def test_a_word_that_all_images_support_has_no_doubt() -> None:
    words = np.array(["the"] * 1000 + ["dog"] * 10)
    own, other = np.array([0.3] * 1000 + [1.0] * 10), np.array([0.4] * 1000 + [0.0] * 10)
    usual = UsualSupport.of(words, own, other)
    assert not usual.doubt(["the"] * 3, np.array([-1.0, 0.3, 1.0])).any()
    assert usual.doubt(["dog"], np.array([0.0]))[0] > 0


def test_usual_support_needs_words() -> None:
    with pytest.raises(ValueError, match="without words"):
        UsualSupport.of(np.array([], dtype=str), np.zeros(0), np.zeros(0))
