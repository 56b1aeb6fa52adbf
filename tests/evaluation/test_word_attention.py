import pytest
import torch

from ascl_lightning.evaluation.word_attention import word_attention
from ascl_lightning.models.similarity.grounding import Grounding


def test_tokens_are_gathered_by_word():
    """[CLS] re ##d dog [SEP]: what a word looks at is the mean of its pieces, what looks at it their sum."""
    grounding = Grounding(
        word_to_region=torch.tensor([[[0.5, 0.5], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5]]]),
        region_to_word=torch.tensor([[[0.1, 0.2, 0.3, 0.25, 0.15], [0.4, 0.1, 0.1, 0.4, 0.0]]]),
        word_support=torch.tensor([[0.9, 0.3, 0.5, -0.25, 0.9]]),
        region_support=torch.tensor([[0.75, 0.5]]),
    )
    positions = torch.tensor([[-1, 0, 0, 1, -1]])
    (found,) = word_attention(grounding, torch.ones(1, 2).bool(), torch.ones(1, 5).bool(), positions, ["red dog"])
    assert found.words == ["red", "dog"]
    assert found.word_to_region == [[pytest.approx(0.4), pytest.approx(0.6)], [pytest.approx(0.9), pytest.approx(0.1)]]
    assert found.region_to_word == [[pytest.approx(0.5), pytest.approx(0.25)], [pytest.approx(0.2), pytest.approx(0.4)]]
    assert found.word_support == [pytest.approx(0.4), pytest.approx(-0.25)]
    assert found.region_support == [0.75, 0.5]


def test_padding_and_truncated_words_are_ignored():
    shape = torch.full((1, 3, 3), 1 / 3)
    grounding = Grounding(shape, shape, torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[0.5, 0.25, 0.0]]))
    real = torch.tensor([[True, True, False]])
    (found,) = word_attention(grounding, real, real, torch.tensor([[0, 1, -1]]), ["a red dog runs"])
    assert found.words == ["a", "red"]
    assert found.word_support == [0.5, 0.25]
    assert [len(row) for row in found.word_to_region] == [2, 2]
    assert found.region_support == [0.5, 0.25]


def test_a_fully_truncated_text_has_no_words():
    shape = torch.full((1, 1, 2), 0.5)
    grounding = Grounding(shape, shape.mT, torch.zeros(1, 1), torch.zeros(1, 2))
    (found,) = word_attention(
        grounding, torch.ones(1, 2).bool(), torch.ones(1, 1).bool(), torch.tensor([[-1]]), ["dog"]
    )
    assert (found.words, found.word_to_region, found.region_to_word) == ([], [], [[], []])
