from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.wordnet_files import write_wordnet

from ascl_lightning.data.variants.captions import make_variants
from ascl_lightning.data.variants.ladder import Variants, VariantStep
from ascl_lightning.errors import UserError

CAPTIONS = [
    ("Two dogs run in front of a red car.", "dogs beside a car", "Three words here!"),
    (),
    ("a horse",),
    ("A big cat sleeps on a mat, with a ball",),
]
CLEAN = [
    "two dogs run in front of a red car",
    "dogs beside a car",
    "three words here",
    "a horse",
    "a big cat sleeps on a mat with a ball",
]
WORDS = st.lists(st.sampled_from("ab cd ef gh two on red 3".split()), min_size=1, max_size=7).map(" ".join)
SPLITS = st.lists(st.lists(WORDS, max_size=3).map(tuple), min_size=1, max_size=5).filter(lambda split: any(split))


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> str:
    return str(write_wordnet(tmp_path_factory.mktemp("nltk")))


def texts_of(variants: Variants) -> dict[str, dict[float, tuple[str, ...]]]:
    return {ladder.operation: {step.level: step.texts for step in ladder.steps} for ladder in variants.ladders}


def test_words_are_kept_from_the_first():
    kept = texts_of(make_variants(CAPTIONS, [0, 2, 3], seed=0))["keep_words"]
    # 9, 3 and 2 words: floor of three quarters, half and a quarter, at least one
    assert kept == {
        75: ("two dogs run in front of", "three words", "a"),
        50: ("two dogs run in", "three", "a"),
        25: ("two dogs", "three", "a"),
    }


def test_captions_are_appended_one_by_one():
    made = texts_of(make_variants(CAPTIONS, range(5), seed=0))
    siblings, others = made["append_siblings"], made["append_others"]
    # an image of three captions has two siblings to append, one of a single caption none
    assert list(siblings) == [1, 2]
    assert siblings[2][1] in {f"{CLEAN[1]} {CLEAN[0]} {CLEAN[2]}", f"{CLEAN[1]} {CLEAN[2]} {CLEAN[0]}"}
    assert siblings[2][1].startswith(siblings[1][1] + " ")
    assert siblings[1][3] == siblings[2][3] == "a horse"
    # two other images have captions
    assert list(others) == [1, 2]
    assert others[2][0] in {f"{CLEAN[0]} {CLEAN[3]} {CLEAN[4]}", f"{CLEAN[0]} {CLEAN[4]} {CLEAN[3]}"}
    assert others[2][0].startswith(others[1][0] + " ")
    first, *rest = others[2][3].removeprefix("a horse ").partition(CLEAN[4])
    assert "".join([first, rest[1]]).strip() in CLEAN[:3]


def test_single_edits_by_hand():
    made = texts_of(make_variants(CAPTIONS, [0, 3], seed=3))
    assert made["drop_number"][1] == ("dogs run in front of a red car", "a horse")
    assert made["drop_relation"][1] == ("two dogs run a red car", "a horse")
    assert made["swap_relation"][1] == ("two dogs run behind a red car", "a horse")
    first, horse = made["swap_number"][1]
    assert first.split()[1:] == CLEAN[0].split()[1:]
    assert (first.split()[0], horse) != ("two", "a horse")
    shuffled, two_words = made["shuffle_words"][1]
    assert sorted(shuffled.split()) == sorted(CLEAN[0].split())
    assert two_words == "horse a"


def test_word_classes_come_from_wordnet_and_words_from_the_split(wordnet):
    captions = [("a red dog",), ("a blue horse",)]
    made = texts_of(make_variants(captions, [0, 1], seed=0, wordnet=wordnet))
    assert made["drop_attribute"][1] == ("a dog", "a horse")
    assert made["drop_noun"][1] == ("a red", "a blue")
    # cats and green things are in WordNet, and not in the split
    assert made["swap_noun"][1] == ("a red horse", "a blue dog")
    assert made["swap_attribute"][1] == ("a blue dog", "a red horse")


def test_operations_that_are_not_run_are_listed(tmp_path):
    (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    variants = make_variants([("a dog",), ("a cat",)], [0, 1], seed=0, wordnet=str(tmp_path))
    assert set(variants.not_run) == {
        *("drop_attribute", "drop_noun", "swap_attribute", "swap_noun"),
        *("drop_number", "swap_number", "drop_relation", "swap_relation", "append_siblings"),
    }
    assert "WordNet" in variants.not_run["swap_noun"]
    assert variants.not_run["swap_number"] == variants.not_run["append_siblings"] == "it changes no caption here"
    assert [ladder.operation for ladder in variants.ladders] == [
        *("keep_words", "append_others", "swap_words", "shuffle_words"),
    ]


@settings(max_examples=40, deadline=None)
@given(split=SPLITS, seed=st.integers(0, 99), data=st.data())
def test_variants_do_not_depend_on_the_other_captions(split, seed, data):
    rows = list(range(sum(map(len, split))))
    some = data.draw(st.permutations(rows).flatmap(lambda order: st.integers(1, len(order)).map(lambda n: order[:n])))
    of_all, of_some = make_variants(split, rows, seed), make_variants(split, some, seed)
    assert of_all.captions == tuple(text for of_image in split for text in of_image)
    for operation, levels in texts_of(of_some).items():
        for level, texts in levels.items():
            assert texts == tuple(texts_of(of_all)[operation][level][row] for row in some)


def test_another_seed_makes_other_variants():
    first, again, other = (texts_of(make_variants(CAPTIONS, range(5), seed)) for seed in (1, 1, 2))
    assert first == again
    assert first["shuffle_words"] != other["shuffle_words"]


def test_a_file_round_trip(tmp_path):
    variants = make_variants(CAPTIONS, [0, 3, 4], seed=5)
    variants = replace(variants, ladders=(replace(variants.ladders[0], exact=True), *variants.ladders[1:]))
    variants.save(tmp_path / "variants.parquet", ["x", "y", "z"])
    assert Variants.load(tmp_path / "variants.parquet") == variants


def test_some_captions_of_a_file():
    variants = make_variants(CAPTIONS, range(5), seed=5)
    some = variants.of_captions([3, 1], ["a horse", "dogs beside a car"])
    assert (some.seed, some.text_rows, some.captions) == (5, (3, 1), ("a horse", "dogs beside a car"))
    assert texts_of(some)["keep_words"][75] == ("a", "dogs beside a")
    # neither of the two has a number
    assert some.not_run["swap_number"] == "it changes no caption here"


@pytest.mark.parametrize(
    ("rows", "captions", "problem"),
    [([9], ["a horse"], "captions to what it was made with"), ([3], ["a zebra"], "of other captions")],
)
def test_variants_of_other_captions_are_refused(rows, captions, problem):
    with pytest.raises(UserError, match=problem):
        make_variants(CAPTIONS, range(5), seed=5).of_captions(rows, captions)


def test_files_without_variants_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        Variants.load(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"give a variants\.parquet"):
        Variants.load(tmp_path / "text.parquet")


def test_ladders_without_a_change_are_dropped():
    (ladder, *_) = make_variants(CAPTIONS, [3], seed=0).ladders
    idle = replace(ladder, operation="idle", steps=(VariantStep(1.0, ("a horse",)),))
    variants = Variants.of(0, [3], ["a horse"], [ladder, idle], {"other": "why"})
    assert variants.ladders == (ladder,)
    assert variants.not_run == {"other": "why", "idle": "it changes no caption here"}


def test_words_of_a_split_replace_words_of_it(wordnet):
    """Never those of a model's vocabulary, whatever it was mined from."""
    captions = [(f"a {noun}",) for noun in ("dog", "cat", "horse")]
    texts = texts_of(make_variants(captions, range(3), 0, wordnet=wordnet))["swap_noun"][1]
    assert {text.split()[1] for text in texts} <= {"dog", "cat", "horse"}
    assert np.all([text != f"a {noun}" for text, noun in zip(texts, ("dog", "cat", "horse"), strict=True)])
