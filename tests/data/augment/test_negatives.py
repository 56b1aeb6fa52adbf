import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.operations import outcomes

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySampler
from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.negatives import (
    DropWord,
    ReplaceWord,
    ShuffleWords,
    SimilarCaption,
    SwapAttribute,
    SwapNoun,
    SwapNumber,
    SwapRelation,
    SwapVerb,
)
from ascl_lightning.data.augment.operation import TextContext
from ascl_lightning.data.augment.positives import SynonymWords
from ascl_lightning.data.text import Vocabulary

CONTEXT = TextContext(("a dog",))
WORDS = st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=1, max_size=8).map(" ".join)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=50, deadline=None)
@given(WORDS, st.integers(0, 1000))
def test_shuffle_keeps_the_words(caption: str, seed: int) -> None:
    shuffled = ShuffleWords()(caption, TextContext((caption,)), generator(seed))
    assert sorted(shuffled.split()) == sorted(caption.split())


def test_shuffle_reaches_every_order() -> None:
    rng = generator()
    orders = {ShuffleWords()("a b c", CONTEXT, rng) for _ in range(200)}
    assert orders == {"a b c", "a c b", "b a c", "b c a", "c a b", "c b a"}


def test_drop_removes_any_one_word() -> None:
    rng = generator()
    assert {DropWord()("a b c", CONTEXT, rng) for _ in range(100)} == {"b c", "a c", "a b"}
    assert DropWord()("dog", CONTEXT, rng) == "dog"
    assert DropWord()("", CONTEXT, rng) == ""


def test_replace_changes_any_one_word_to_any_other_of_the_vocabulary() -> None:
    context = TextContext(("a b",), Vocabulary(("a", "b", "c")))
    rng = generator()
    replaced = {ReplaceWord()("a x", context, rng) for _ in range(200)}
    assert replaced == {"b x", "c x", "a a", "a b", "a c"}
    assert ReplaceWord()("", context, rng) == ""
    assert ReplaceWord()("dog", TextContext(("dog",), Vocabulary(("dog",))), rng) == "dog"


def test_replace_without_a_vocabulary_is_wrong_use() -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        ReplaceWord()("a dog", TextContext(("a dog",)), generator())


def test_swaps_by_class(wordnet):
    assert outcomes(SwapNoun(wordnet=wordnet), "a big dog runs") == {"a big cat runs", "a big horse runs"}
    assert outcomes(SwapNoun(wordnet=wordnet), "dogs and a cat") == {
        *("cats and a cat", "horses and a cat"),
        *("dogs and a dog", "dogs and a horse"),
    }
    assert outcomes(SwapAttribute(wordnet=wordnet), "a red dog") == {"a blue dog", "a green dog"}
    assert outcomes(SwapAttribute(wordnet=wordnet), "a big dog") == {"a small dog"}
    # "run" is irregular and no -ed form of it is made
    assert outcomes(SwapVerb(wordnet=wordnet), "a dog walked") == {"a dog jumped", "a dog leaped"}
    assert outcomes(SwapVerb(wordnet=wordnet), "walking") == {"jumping", "leaping", "running"}
    assert outcomes(SwapVerb(wordnet=wordnet), "a red cat") == {"a red cat"}


def test_swaps_within_the_vocabulary(wordnet):
    vocabulary = Vocabulary(("a", "dog", "horse", "hound", "red", "walk", "unknown"))
    context = TextContext(("a dog",), vocabulary)
    operation = SwapNoun(candidates="vocabulary", wordnet=wordnet)
    assert outcomes(operation, "a dog", context) == {"a horse"}
    assert outcomes(operation, "a cat", context) == {"a dog", "a horse", "a hound"}
    with pytest.raises(ValueError, match="vocabulary"):
        outcomes(operation, "a dog", draws=1)


def test_numbers():
    assert outcomes(SwapNumber(), "two dogs", draws=500) == {
        f"{n} dogs"
        for n in ("one", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    }
    assert outcomes(SwapNumber(), "12 dogs", draws=500) == {f"{n} dogs" for n in range(1, 12)}
    assert outcomes(SwapNumber(), "13 dogs") == {"13 dogs"}


def test_relations():
    assert outcomes(SwapRelation(), "a dog in front of a cat") == {"a dog behind a cat"}
    assert outcomes(SwapRelation(), "to the left of it") == {"to the right of it"}
    assert outcomes(SwapRelation(), "on top of a hat on it") == {
        *("underneath a hat on it", "on top of a hat under it"),
    }
    assert outcomes(SwapRelation(), "far from it") == {"next to it", "near it"}
    assert outcomes(SwapRelation(), "nothing here") == {"nothing here"}


def test_captions_of_other_images():
    captions = [("a dog runs", "a dog sleeps"), ("a dog runs fast",), ("one cat",), ("a dog runs",)]
    corpus = CaptionCorpus(captions)
    assert outcomes(SimilarCaption(), "a dog runs", TextContext(captions[0], None, corpus, 0)) == {"a dog runs fast"}
    assert outcomes(SimilarCaption(), "zebra", TextContext(("zebra",), None, corpus, None)) == {"zebra"}
    with pytest.raises(ValueError, match="corpus"):
        outcomes(SimilarCaption(), "a dog", draws=1)


def test_operations_pickle_and_are_drawn_by_the_sampler(wordnet):
    operations = [SwapNoun(wordnet=wordnet), SwapNumber(), SwapRelation(), SwapVerb(wordnet=wordnet)]
    sampler = pickle.loads(pickle.dumps(AsymmetrySampler([SynonymWords(wordnet=wordnet)], operations)))
    context = TextContext(("two dogs walk on it",))
    names = Counter(
        sampler.sample("two dogs walk on it", context, seed=0, epoch=0, index=i).negative.operation for i in range(400)
    )
    assert set(names) == {"swap_noun", "swap_number", "swap_relation", "swap_verb"}
    # four equal shares of 400: five standard deviations are 43
    assert all(abs(count - 100) < 44 for count in names.values())
