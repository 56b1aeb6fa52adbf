import pytest
from tests.helpers.planted import planted_gallery, planted_model, planted_tokenizer

from ascl_lightning.errors import UserError
from ascl_lightning.search.advice import Adviser

# what pictures show, and what is said of them; "red" is known and in no picture, and no caption has it
PICTURES = ["a blue dog sky", "a blue cat", "a blue tree sky", "a dog tree"]
CAPTIONS = [["a blue dog", "a dog"], ["a blue cat"], ["a blue tree"], ["a dog"]]


def adviser(num_candidates: int = 2) -> Adviser:
    gallery = planted_gallery(PICTURES, CAPTIONS)
    captions = [caption for of_image in CAPTIONS for caption in of_image]
    return Adviser(planted_model(), planted_tokenizer(), gallery, captions, num_candidates)


def test_the_best_candidates_come_first_and_support_what_they_show() -> None:
    advice = adviser().advise("A blue dog!")
    # of its words picture 0 shows all
    assert advice.images[0] == 0
    assert advice.scores[0] > advice.scores[1]
    assert [word.word for word in advice.words] == ["a", "blue", "dog"]
    assert [word.support for word in advice.words] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert advice.unsupported == []


@pytest.mark.parametrize("num_candidates", [1, 2, 4, 9])
def test_a_colour_that_is_in_no_picture_has_no_support(num_candidates: int) -> None:
    advice = adviser(num_candidates).advise("a red dog")
    assert len(advice.images) == min(num_candidates, 4)
    assert advice.unsupported == ["red"]
    red = advice.words[1]
    assert red.is_known
    assert red.support == pytest.approx(0.0, abs=1e-5)
    assert red.doubt > 1


def test_unknown_words_are_unsupported() -> None:
    advice = adviser().advise("a dog under an umbrella")
    assert advice.unsupported == ["under", "an", "umbrella"]
    assert not advice.words[-1].is_known


def test_one_candidate_that_shows_a_word_is_enough() -> None:
    """Pictures 0 and 3 show a dog, and picture 3 alone a tree beside it."""
    advice = adviser(num_candidates=4).advise("dog cat tree")
    assert advice.unsupported == []
    assert adviser(num_candidates=1).advise("dog cat tree").unsupported != []


def test_empty_queries_and_splits_without_captions_are_refused() -> None:
    with pytest.raises(UserError, match="no word"):
        adviser().advise(" ")
    gallery = planted_gallery(PICTURES[:1], CAPTIONS[:1])
    with pytest.raises(UserError, match="at least 2 images"):
        Adviser(planted_model(), planted_tokenizer(), gallery, CAPTIONS[0])
