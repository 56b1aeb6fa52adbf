import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.wordnet_files import write_wordnet

from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.augment.more_text_operations import (
    DeleteWords,
    SimilarCaption,
    SwapAttribute,
    SwapNoun,
    SwapNumber,
    SwapRelation,
    SwapVerb,
    SwapWords,
    SynonymWords,
)
from ascl_lightning.data.augment.text_operations import AsymmetrySampler, TextContext
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

WORDS = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> str:
    return str(write_wordnet(tmp_path_factory.mktemp("nltk")))


def outcomes(operation, caption: str, context: TextContext | None = None, draws: int = 200) -> set[str]:
    context = context or TextContext((caption,))
    return {operation(caption, context, np.random.default_rng(seed)) for seed in range(draws)}


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
        sampler.sample("two dogs walk on it", context, seed=0, epoch=0, index=i).negative_operation for i in range(400)
    )
    assert set(names) == {"swap_noun", "swap_number", "swap_relation", "swap_verb"}
    # four equal shares of 400: five standard deviations are 43
    assert all(abs(count - 100) < 44 for count in names.values())


def test_what_is_missing_is_said(tmp_path: Path):
    (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    with pytest.raises(UserError, match="WordNet"):
        SynonymWords(wordnet=str(tmp_path))("a dog", TextContext(("a dog",)), np.random.default_rng(0))


def test_a_config_names_every_operation_without_its_module() -> None:
    """In a process that imported what the command line imports, and nothing of the tests."""
    edits = (SynonymWords, DeleteWords, SwapWords, SwapAttribute, SwapNoun, SwapVerb, SwapNumber, SwapRelation)
    names = [operation.__name__ for operation in (*edits, SimilarCaption)]
    code = f"""
from jsonargparse import ArgumentParser
from ascl_lightning.data.datamodule import RetrievalDataModule
parser = ArgumentParser(exit_on_error=False)
parser.add_class_arguments(RetrievalDataModule, "data")
found = parser.instantiate(parser.parse_args(["--data.source=Scenes", "--data.negatives=[{", ".join(names)}]"]))
print(*(type(operation).__name__ for operation in found.data.asymmetry.negatives))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == names
