from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.operations import outcomes

from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.operation import TextContext
from ascl_lightning.data.augment.positives import (
    AppendOtherCaption,
    DeleteWords,
    FirstHalf,
    JoinCaptions,
    NounPhrase,
    RandomSpan,
    SwapWords,
    SynonymWords,
)
from ascl_lightning.errors import UserError

WORDS = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=30).map(" ".join)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("caption", "half"),
    [("dog", "dog"), ("black dog", "black"), ("a black dog", "a"), ("a black dog runs", "a black"), ("", "")],
)
def test_first_half_by_hand(caption: str, half: str) -> None:
    assert FirstHalf()(caption, TextContext((caption,)), generator()) == half


@settings(max_examples=50, deadline=None)
@given(WORDS)
def test_first_half_is_a_prefix_of_half_the_words(caption: str) -> None:
    words = caption.split()
    half = FirstHalf()(caption, TextContext((caption,)), generator()).split()
    assert len(half) == max(1, len(words) // 2)
    assert words[: len(half)] == half


def test_join_draws_both_captions_with_replacement() -> None:
    context = TextContext(("a b", "c"))
    rng = generator()
    counts = Counter(JoinCaptions()("a b", context, rng) for _ in range(1600))
    assert set(counts) == {"a b a b", "a b c", "c a b", "c c"}
    assert all(abs(count - 400) < 5 * (1600 * 0.25 * 0.75) ** 0.5 for count in counts.values())


def test_join_of_a_single_caption_repeats_it() -> None:
    assert JoinCaptions()("a dog", TextContext(("a dog",)), generator()) == "a dog a dog"


def test_a_caption_of_another_image_is_appended() -> None:
    captions = [("a dog", "it runs"), ("a cat", "two cats"), ("a bird",)]
    corpus = CaptionCorpus(captions)
    context = TextContext(captions[1], None, corpus, 1)
    assert outcomes(AppendOtherCaption(), "a cat", context) == {"a cat a dog", "a cat it runs", "a cat a bird"}
    alone = TextContext(captions[2], None, CaptionCorpus(captions[2:]), 0)
    assert outcomes(AppendOtherCaption(), "a bird", alone) == {"a bird"}
    with pytest.raises(ValueError, match="corpus"):
        outcomes(AppendOtherCaption(), "a cat", draws=1)


def test_spans_by_hand() -> None:
    # of five words, shares of 0.4 to 0.6 keep two or three
    assert outcomes(RandomSpan(least=0.4, most=0.6), "a b c d e") == {
        *("a b", "b c", "c d", "d e"),
        *("a b c", "b c d", "c d e"),
    }
    assert outcomes(RandomSpan(least=1.0), "a b c") == {"a b c"}
    assert outcomes(RandomSpan(), "dog") == {"dog"}
    assert outcomes(RandomSpan(), "") == {""}


@settings(max_examples=50, deadline=None)
@given(WORDS, st.integers(0, 99), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_span_keeps_a_share_of_consecutive_words(caption: str, seed: int, one: float, other: float) -> None:
    least, most = sorted((one, other))
    words = caption.split()
    span = RandomSpan(least=least, most=most)(caption, TextContext((caption,)), generator(seed)).split()
    assert max(1, round(least * len(words))) <= len(span) <= max(1, round(most * len(words)))
    assert any(words[start : start + len(span)] == span for start in range(len(words)))


def test_shares_and_places_of_spans_are_uniform() -> None:
    caption, rng = " ".join(map(str, range(1000))), generator()
    spans = [RandomSpan()(caption, TextContext((caption,)), rng).split() for _ in range(400)]
    shares = np.array([len(span) / 1000 for span in spans])
    places = np.array([int(span[0]) / (1000 - len(span)) for span in spans if len(span) < 1000])
    # within five standard errors of a uniform mean
    assert shares.mean() == pytest.approx(0.7, abs=5 * 0.6 / 12**0.5 / 20)
    assert places.mean() == pytest.approx(0.5, abs=5 / 12**0.5 / 20)


@pytest.mark.parametrize(("least", "most"), [(0.0, 1.0), (0.5, 1.5), (0.7, 0.6), (-0.1, 0.5), (float("nan"), 1.0)])
def test_impossible_shares_are_refused(least: float, most: float) -> None:
    with pytest.raises(UserError, match=r"random_span.*give 0 < least <= most <= 1"):
        RandomSpan(least=least, most=most)


def test_noun_phrases(wordnet):
    operation = NounPhrase(wordnet=wordnet)
    assert outcomes(operation, "a big red dog walks to two small cats") == {"big red dog", "small cats"}
    # up to the last noun of a run
    assert outcomes(operation, "the horse big and blue") == {"horse"}
    assert outcomes(operation, "walks on blue") == {"walks on blue"}


def test_synonyms(wordnet):
    operation = SynonymWords(wordnet=wordnet)
    assert outcomes(operation, "a dog runs") == {"a hound runs"}
    assert outcomes(operation, "two dogs leaping") == {"two hounds leaping", "two dogs jumping"}
    # a tenth of 24 words: two of them
    for text in outcomes(operation, " ".join(["a big dog"] * 8), draws=20):
        assert sum(word in ("large", "hound") for word in text.split()) == 2
    assert outcomes(operation, "nothing known") == {"nothing known"}


@given(WORDS, st.integers(0, 99))
def test_deletion_keeps_an_ordered_part(caption, seed):
    made = DeleteWords()(caption, TextContext((caption,)), np.random.default_rng(seed)).split()
    assert made
    rest = iter(caption.split())
    assert all(word in rest for word in made)


def test_a_tenth_of_the_words_is_deleted():
    caption = " ".join(["word"] * 1000)
    kept = [len(DeleteWords()(caption, TextContext((caption,)), np.random.default_rng(i)).split()) for i in range(50)]
    # 50,000 draws with chance 0.9: five standard deviations are 0.0067
    assert np.mean(kept) / 1000 == pytest.approx(0.9, abs=0.0067)


@given(WORDS, st.integers(0, 99))
def test_swaps_keep_the_words(caption, seed):
    made = SwapWords()(caption, TextContext((caption,)), np.random.default_rng(seed))
    assert Counter(made.split()) == Counter(caption.split())


def test_one_swap_by_hand():
    assert outcomes(SwapWords(), "a b c") == {"b a c", "c b a", "a c b"}


def test_a_missing_wordnet_is_an_error(tmp_path: Path):
    (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    with pytest.raises(UserError, match="WordNet"):
        SynonymWords(wordnet=str(tmp_path))("a dog", TextContext(("a dog",)), np.random.default_rng(0))
