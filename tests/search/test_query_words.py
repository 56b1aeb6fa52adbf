from collections.abc import Sequence

import pytest
from tests.helpers.planted import axes, planted_gallery, planted_similarity, planted_tokenizer

from ascl_lightning.errors import UserError
from ascl_lightning.search.query_words import QueryWord, query_words, usual_highest_support

# what pictures show, and what is said of them; "red" is known and in no picture, and no caption has it
PICTURES = ["a blue dog sky", "a blue cat", "a blue tree sky", "a dog tree"]
CAPTIONS = [["a blue dog", "a dog"], ["a blue cat"], ["a blue tree"], ["a dog"]]


def words_of(query: str, retrieved: Sequence[int], *, calibrated: bool = True) -> list[QueryWord]:
    captions = [caption for of_image in CAPTIONS for caption in of_image]
    similarity, tokenizer = planted_similarity(), planted_tokenizer()
    usual = None
    if calibrated:
        gallery = planted_gallery(PICTURES, CAPTIONS)
        usual = usual_highest_support(similarity, tokenizer, gallery, captions, len(retrieved))
    images = axes([PICTURES[number] for number in retrieved])
    return query_words(similarity, tokenizer, query, axes([query]), images, usual)


def unsupported(*args, **options) -> list[str]:
    return [word.word for word in words_of(*args, **options) if not word.is_supported]


def test_words_that_an_image_shows_are_supported() -> None:
    words = words_of("a blue dog", [0, 1])
    assert [word.word for word in words] == ["a", "blue", "dog"]
    assert [word.support for word in words] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert unsupported("a blue dog", [0, 1]) == []


@pytest.mark.parametrize("num_images", [1, 2, 4])
def test_a_colour_that_is_in_no_picture_has_no_support(num_images: int) -> None:
    words = words_of("a red dog", [0, 3, 1, 2][:num_images])
    assert [word.word for word in words if not word.is_supported] == ["red"]
    red = words[1]
    assert red.is_known
    assert red.support == pytest.approx(0.0, abs=1e-5)
    assert red.doubt > 1


def test_unknown_words_are_unsupported_also_without_usual_support() -> None:
    for calibrated in (True, False):
        assert unsupported("a dog under an umbrella", [0, 3], calibrated=calibrated) == ["under", "an", "umbrella"]
    assert unsupported("a red dog", [0, 3], calibrated=False) == []


def test_one_image_that_shows_a_word_is_enough() -> None:
    """Picture 1 alone shows a cat, and picture 3 a dog and a tree."""
    assert unsupported("dog cat tree", [0, 1, 2, 3]) == []
    assert unsupported("dog cat tree", [3]) == ["cat"]


def test_usual_support_needs_two_images_and_captions() -> None:
    for pictures, captions in ((PICTURES[:1], CAPTIONS[0]), (PICTURES, [])):
        with pytest.raises(UserError, match="at least 2 images"):
            usual_highest_support(
                planted_similarity(),
                planted_tokenizer(),
                planted_gallery(pictures, CAPTIONS[: len(pictures)]),
                captions,
                2,
            )
