import numpy as np
import pytest
from tests.helpers.planted import THINGS, planted_gallery, planted_similarity, planted_split, planted_tokenizer

from ascl_lightning.curation.triage import KINDS, Triage, occurrences, outer_fence, triage


def judged(pictures: list[str], captions: list[list[str]], **arguments: object) -> Triage:
    texts = [caption for of_image in captions for caption in of_image]
    gallery = planted_gallery(pictures, captions)
    return triage(planted_similarity(), planted_tokenizer(), gallery, texts, **arguments)


def rows(flagged: np.ndarray) -> list[int]:
    return np.flatnonzero(flagged).tolist()


def absent(picture: str, number: int) -> list[str]:
    """Things that a picture does not show."""
    return [thing for thing in THINGS if thing not in picture.split()][:number]


def repetitions(captions: list[list[str]]) -> list[int]:
    """Rows of captions that their picture had before."""
    pairs = [(image, caption) for image, of_image in enumerate(captions) for caption in of_image]
    return [row for row, pair in enumerate(pairs) if pair in pairs[:row]]


@pytest.fixture(scope="module")
def spoiled() -> tuple[Triage, list[str], list[list[str]]]:
    """Of 200 pictures with three captions each a few are spoiled: caption 0 of picture i is row 3 * i."""
    pictures, captions = planted_split(200, seed=0)
    for image in range(0, 40, 2):  # captions of others
        captions[image][0], captions[image + 1][0] = captions[image + 1][0], captions[image][0]
    for image in range(40, 50):  # three things more than the picture shows
        captions[image][0] += f" {' '.join(absent(pictures[image], 3))}"
    for image in range(50, 60):  # what every picture shows
        captions[image][0] = "a sky"
    for image in range(60, 70):
        captions[image][2] = captions[image][0]
    return judged(pictures, captions), pictures, captions


def test_captions_of_other_pictures_are_mismatched(spoiled) -> None:
    found = spoiled[0]
    strangers = range(0, 120, 3)
    # what every picture shows fits hardly better than at random
    assert set(strangers) <= set(rows(found.flags["mismatched"])) <= {*strangers, *range(150, 180, 3)}
    # the mean of 40 even shares lies within 0.15 of 1/2 but once in a thousand times
    assert found.chance[strangers].mean() == pytest.approx(0.5, abs=0.15)
    assert found.numbers["mismatched"][strangers].mean() == pytest.approx(0.0, abs=0.6)


def test_words_that_the_image_does_not_show_are_over_long(spoiled) -> None:
    found, pictures, _ = spoiled
    assert rows(found.flags["over_long"]) == list(range(120, 150, 3))
    assert found.unsupported[120].tolist() == absent(pictures[40], 3)
    assert found.words[120].tolist()[:2] == ["a", *found.captions[120].split()[1:2]]
    np.testing.assert_allclose(found.support[120], [1, 1, 1, 1, 1, 0, 0, 0], atol=1e-5)
    assert "the image does not support 'thing" in found.reason(120)
    assert not found.numbers["over_long"][180:].any()


def test_a_repeated_pair_is_a_duplicate(spoiled) -> None:
    found = spoiled[0]
    assert rows(found.flags["duplicate"]) == repetitions(spoiled[2])
    assert set(range(182, 212, 3)) <= set(rows(found.flags["duplicate"]))
    assert found.flags_of(182) == ["duplicate"]
    assert found.reason(182) == "occurrence 2 of this image with this caption"


def test_equal_images_with_two_ids_count_as_one() -> None:
    gallery = planted_gallery(["a dog", "a cat", "a dog"], [["dog", "tree"], ["dog"], ["dog", "dog"]])
    assert occurrences(gallery, ["dog", "tree", "dog", "dog", "dog"]).tolist() == [1, 1, 1, 2, 3]


def test_only_kinds_that_are_asked_for_are_flagged(spoiled) -> None:
    _, pictures, captions = spoiled
    found = judged(pictures, captions, kinds=["duplicate"])
    assert list(found.flags) == ["duplicate"]
    assert rows(found.flagged) == repetitions(captions)
    assert set(found.numbers) == set(found.thresholds) == set(KINDS)
    assert not judged(pictures, captions, kinds=[]).flagged.any()


def test_a_pair_may_have_several_flags_in_order(spoiled) -> None:
    found = spoiled[0]
    row = rows(found.flags["mismatched"])[0]
    assert found.flags_of(row)[0] == "mismatched"
    assert found.reason(row).startswith(f"{100 * found.chance[row]:.1f}% of random pairs fit as well")
    assert found.reason(199 * 3) == ""


def test_a_clean_split_has_hardly_any_flags() -> None:
    pictures, captions = planted_split(200, seed=1)
    found = judged(pictures, captions)
    assert found.flagged.sum() <= 3  # of 600 pairs


def test_the_outer_fence_of_no_values_is_infinite() -> None:
    assert outer_fence(np.zeros(0)) == np.inf


def test_all_pairs_are_triaged_if_none_fits() -> None:
    """Each of 40 pictures has the captions of the next."""
    pictures, captions = planted_split(40, seed=2)
    found = judged(pictures, captions[1:] + captions[:1])
    assert len(found) == 120
    assert all(len(words) == len(support) for words, support in zip(found.words, found.support, strict=True))
