import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascl_lightning.data.augment.asymmetry_sampler import AsymmetrySample, AsymmetrySampler, MadeText
from ascl_lightning.data.augment.negatives import DropWord, ReplaceWord, ShuffleWords
from ascl_lightning.data.augment.operation import AsymmetryType, TextContext, TextOperation
from ascl_lightning.data.augment.positives import FirstHalf, JoinCaptions
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

CAPTIONS = ("A black dog runs.", "Two dogs play in the snow", "Dog!", "a dog, and a dog")


VOCABULARY = Vocabulary.mine(CAPTIONS, capacity=None)


CONTEXT = TextContext(CAPTIONS, VOCABULARY)


POSITIVES = (JoinCaptions(), FirstHalf())


NEGATIVES = (ShuffleWords(), DropWord(), ReplaceWord())


WORDS = st.lists(st.sampled_from(["ab", "cd", "ef", "gh"]), min_size=1, max_size=8).map(" ".join)


def draw(
    sampler: AsymmetrySampler, caption: str, index: int = 0, context: TextContext | None = None
) -> AsymmetrySample:
    return sampler.sample(caption, context or TextContext((caption,), VOCABULARY), seed=3, epoch=1, index=index)


def test_operations_know_their_type() -> None:
    assert [operation.type for operation in POSITIVES + NEGATIVES] == ["II", "III", "I", "I", "I"]
    assert len({operation.name for operation in POSITIVES + NEGATIVES}) == 5


def test_a_sample_is_cleaned_and_says_what_made_it() -> None:
    sample = draw(AsymmetrySampler([FirstHalf()], [DropWord()]), "A  Black-and-white dog!")
    assert sample.text == "a black and white dog"
    assert sample.positive.text == "a black"
    assert sample.negative.text in {
        "black and white dog",
        "a and white dog",
        "a black white dog",
        "a black and dog",
        "a black and white",
    }
    assert sample.positive_negative.text in {"a", "black"}
    assert sample.negative.valid
    assert sample.positive_negative.valid
    names = (sample.positive.operation, sample.negative.operation, sample.positive_negative.operation)
    assert names == ("first_half", "drop_word", "drop_word")


def test_siblings_are_cleaned_and_blank_ones_left_out() -> None:
    context = TextContext(("A dog.", "  ", "The-cat!"), VOCABULARY)
    positives = {draw(AsymmetrySampler([JoinCaptions()], []), "A dog.", i, context).positive.text for i in range(60)}
    assert positives == {"a dog a dog", "a dog the cat", "the cat a dog", "the cat the cat"}


def test_without_operations_there_are_no_samples() -> None:
    nothing = draw(AsymmetrySampler([], []), "A dog")
    assert nothing == AsymmetrySample("a dog", None, None, None)
    only_positive = draw(AsymmetrySampler([FirstHalf()], []), "A dog")
    assert only_positive == AsymmetrySample("a dog", MadeText("a", "first_half"), None, None)
    only_negative = draw(AsymmetrySampler([], [DropWord()]), "A dog")
    assert only_negative.negative.text in {"a", "dog"}
    assert only_negative.positive is only_negative.positive_negative is None


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.sets(st.sampled_from(NEGATIVES), min_size=1), st.integers(0, 99))
def test_a_valid_negative_differs_and_an_invalid_one_repeats(
    captions: list[str], negatives: set[TextOperation], index: int
) -> None:
    context = TextContext(tuple(captions), Vocabulary(("ab", "xy")))
    sample = draw(AsymmetrySampler(POSITIVES, sorted(negatives, key=lambda op: op.name)), captions[0], index, context)
    for text, negative in ((sample.text, sample.negative), (sample.positive.text, sample.positive_negative)):
        valid = negative.valid
        assert (negative.text != text) == valid
        words = text.split()
        possible = len(set(words)) > 1 or ReplaceWord() in negatives or (DropWord() in negatives and len(words) > 1)
        assert valid == possible


@pytest.mark.parametrize(
    ("caption", "operation", "negative", "valid"),
    [
        ("Dog", ShuffleWords(), "dog", False),
        ("dog dog", ShuffleWords(), "dog dog", False),
        ("a dog", ShuffleWords(), "dog a", True),
        ("Dog", DropWord(), "dog", False),
        ("dog dog", DropWord(), "dog", True),
        ("", ShuffleWords(), "", False),
        ("...", ShuffleWords(), "...", False),
    ],
)
def test_a_negative_that_cannot_differ_is_masked(
    caption: str, operation: TextOperation, negative: str, valid: bool
) -> None:
    for index in range(20):
        sample = draw(AsymmetrySampler([], [operation]), caption, index)
        assert sample.negative == MadeText(negative, operation.name if valid else None)
        assert sample.negative.valid == valid


def test_a_rare_operation_replaces_one_that_cannot_change_the_text() -> None:
    sampler = AsymmetrySampler([], [ShuffleWords(probability=1e9), ReplaceWord(probability=1e-9)])
    assert {draw(sampler, "dog", index).negative.operation for index in range(20)} == {"replace_word"}


def test_drawing_again_keeps_the_shares_of_the_operations() -> None:
    """A shuffle of two words fails every second time; it must not lose its share to a drop, which never fails."""
    sampler = AsymmetrySampler([], [ShuffleWords(), DropWord()])
    shuffled = sum(draw(sampler, "a dog", index).negative.text == "dog a" for index in range(1600))
    assert abs(shuffled - 800) < 5 * 20


@dataclass(frozen=True)
class Echo(TextOperation):
    name: ClassVar[str] = "echo"
    type: ClassVar[AsymmetryType] = "I"
    answer: str = "A  Dog!"

    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        return self.answer


@dataclass(frozen=True)
class TrueEcho(Echo):
    type: ClassVar[AsymmetryType] = "III"


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        ([], [ShuffleWords(), JoinCaptions()], r"negatives: JoinCaptions makes true texts \(type II\): move it to"),
        ([], [FirstHalf()], r"negatives: FirstHalf makes true texts \(type III\)"),
        ([DropWord()], [], r"positives: DropWord makes wrong texts \(type I\): move it to negatives"),
    ],
)
def test_an_operation_in_the_wrong_list_is_refused(positives, negatives, message) -> None:
    with pytest.raises(UserError, match=message):
        AsymmetrySampler(positives, negatives)


def test_texts_are_compared_after_clean_up() -> None:
    sample = draw(AsymmetrySampler([TrueEcho()], [Echo()]), "a dog")
    assert sample.positive.text == sample.negative.text == "a dog"
    assert not sample.negative.valid
    assert not sample.positive_negative.valid


def test_an_operation_that_leaves_no_text_changes_nothing() -> None:
    sample = draw(AsymmetrySampler([TrueEcho(answer=" ")], [Echo(answer="")]), "a dog")
    assert sample.positive.text == sample.negative.text == "a dog"
    assert not sample.negative.valid


def test_a_joined_text_is_truncated_by_the_tokenizer_only() -> None:
    caption = " ".join(f"w{i}" for i in range(70))
    sample = draw(AsymmetrySampler([JoinCaptions()], [ShuffleWords()]), caption)
    assert sample.text.split() == [f"w{i}" for i in range(60)]
    assert sample.positive.text == f"{sample.text} {sample.text}"
    assert sorted(sample.positive_negative.text.split()) == sorted(sample.positive.text.split())


@pytest.mark.parametrize(("weights", "share"), [((1.0, 1.0), 0.5), ((0.3, 0.1), 0.75)])
def test_positives_are_drawn_by_their_shares(weights: tuple[float, float], share: float) -> None:
    sampler = AsymmetrySampler([JoinCaptions(probability=weights[0]), FirstHalf(probability=weights[1])], [])
    joined = sum(draw(sampler, "a dog runs", index).positive.operation == "join_captions" for index in range(3000))
    assert abs(joined - 3000 * share) < 5 * (3000 * share * (1 - share)) ** 0.5


def test_the_same_keys_give_the_same_sample_in_any_order() -> None:
    keys = [(seed, epoch, index) for seed in (0, 7) for epoch in (0, 5) for index in range(40)]

    def sample_all(order: list[tuple[int, int, int]]) -> dict[tuple[int, int, int], AsymmetrySample]:
        sampler = AsymmetrySampler(POSITIVES, NEGATIVES)
        return {
            (seed, epoch, index): sampler.sample(CAPTIONS[index % 4], CONTEXT, seed=seed, epoch=epoch, index=index)
            for seed, epoch, index in order
        }

    expected = sample_all(keys)
    shuffled = list(keys)
    random.Random(0).shuffle(shuffled)
    np.random.default_rng(1).random()
    assert sample_all(shuffled) == expected
    assert sample_all(keys[1::2]) == {key: expected[key] for key in keys[1::2]}


@pytest.mark.parametrize("changed", ["seed", "epoch", "index"])
def test_every_key_changes_the_draws(changed: str) -> None:
    sampler = AsymmetrySampler(POSITIVES, NEGATIVES)
    key = {"seed": 1, "epoch": 1, "index": 1}
    caption = "one two three four five six seven eight nine ten"
    samples = {
        sampler.sample(caption, TextContext((caption,), VOCABULARY), **(key | {changed: value})).negative
        for value in range(30)
    }
    assert len(samples) > 15


def test_negative_operations_do_not_change_the_positives() -> None:
    captions = [CAPTIONS[index % 4] for index in range(100)]
    few, many = AsymmetrySampler(POSITIVES, []), AsymmetrySampler(POSITIVES, NEGATIVES)
    assert [draw(few, caption, i, CONTEXT).positive for i, caption in enumerate(captions)] == [
        draw(many, caption, i, CONTEXT).positive for i, caption in enumerate(captions)
    ]


def test_streams_share_no_randomness() -> None:
    """T- and (T+)- of one key draw apart: with one stream for both, equal texts would always be shuffled alike."""
    caption = "one two three four five six"
    sampler = AsymmetrySampler([TrueEcho(answer=caption)], [ShuffleWords()])
    samples = [draw(sampler, caption, index) for index in range(50)]
    assert sum(sample.negative == sample.positive_negative for sample in samples) < 5
