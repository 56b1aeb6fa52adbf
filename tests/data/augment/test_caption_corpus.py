from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ascl_lightning.data.augment import caption_corpus
from ascl_lightning.data.augment.caption_corpus import CaptionCorpus

CAPTIONS = st.lists(
    st.lists(st.text("abc ", min_size=1, max_size=9).filter(str.strip), max_size=3).map(tuple), max_size=8
)


def overlap(one: str, other: str) -> float:
    first, second = set(one.split()), set(other.split())
    return len(first & second) / len(first | second)


@given(CAPTIONS, st.text("abc ", min_size=1, max_size=9).filter(str.strip), st.integers(-1, 8))
def test_the_most_similar_captions_of_other_images(captions, text, image):
    """Against all pairs, with few enough captions that all are looked at."""
    text = " ".join(text.split())
    found = CaptionCorpus(captions).similar(text, None if image < 0 else image, 3)
    others = [" ".join(t.split()) for row, of_image in enumerate(captions) if row != image for t in of_image]
    expected = sorted(
        {other for other in others if other != text and overlap(text, other) > 0}, key=lambda t: -overlap(text, t)
    )
    assert [overlap(text, other) for other in found] == [overlap(text, other) for other in expected[:3]]
    assert set(found) <= set(expected)
    assert len(set(found)) == len(found)


def test_equal_overlaps_come_in_order():
    corpus = CaptionCorpus([("dog one",), ("dog two",), ("dog",), ("dog three",)])
    assert corpus.similar("dog", 2, 9) == ["dog one", "dog two", "dog three"]


def test_candidates_are_bounded_and_those_of_rare_words(monkeypatch):
    monkeypatch.setattr(caption_corpus, "MAX_CANDIDATES", 2)
    corpus = CaptionCorpus([("a common",)] * 5 + [("a common rare",), ("a rare thing here",)])
    assert corpus.similar("a common rare word", None, 9) == ["a common rare", "a rare thing here"]


@given(CAPTIONS, st.integers(-1, 8))
def test_a_random_caption_is_of_another_image(captions, image):
    corpus, rng = CaptionCorpus(captions), np.random.default_rng(0)
    found = {corpus.draw_other(None if image < 0 else image, rng) for _ in range(300)}
    others = {" ".join(t.split()) for row, of_image in enumerate(captions) if row != image for t in of_image}
    assert found == (others or {None})


def test_random_captions_are_equally_likely():
    corpus, rng = CaptionCorpus([("a",), ("b", "c"), ("d",), ("e", "f", "g")]), np.random.default_rng(0)
    counts = Counter(corpus.draw_other(1, rng) for _ in range(1000))
    assert set(counts) == set("adefg")
    assert all(abs(count - 200) < 5 * (1000 * 0.2 * 0.8) ** 0.5 for count in counts.values())


def test_nothing_in_common():
    assert CaptionCorpus([("a dog",)]).similar("zebra", None, 3) == []
    assert CaptionCorpus([]).similar("zebra", None, 3) == []
