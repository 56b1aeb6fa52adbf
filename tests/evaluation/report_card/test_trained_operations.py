from pathlib import Path

import pytest
from tests.helpers.operations import outcomes
from tests.helpers.wordnet_files import write_wordnet

from ascl_lightning.data.augment.negatives import (
    DropNoun,
    DropNumber,
    DropRelation,
    DropWord,
    ReplaceWord,
    ShuffleWords,
    SwapNoun,
    SwapNumber,
    SwapRelation,
)
from ascl_lightning.data.augment.operation import TextContext
from ascl_lightning.data.augment.positives import SwapWords
from ascl_lightning.data.scenes.ladders import claims_of_ladders
from ascl_lightning.data.sources.scenes import Scenes
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.data.variants.captions import make_variants
from ascl_lightning.evaluation.report_card.trained_operations import is_trained_on

CAPTION = "two dogs near it"


@pytest.mark.parametrize(
    ("operation", "negative", "expected"),
    [
        ("shuffle_words", "shuffle_words", True),
        ("swap_words", "shuffle_words", True),
        ("swap_words", "replace_word", False),
        ("drop_noun", "drop_word", True),
        ("drop_noun", "drop_attribute", False),
        ("swap_noun", "swap_noun", True),
        ("swap_noun", "drop_noun", False),
        ("swap_noun", "similar_caption", False),
        ("wrong_colour", "swap_attribute", True),
        ("wrong_colour", "replace_word", True),
        ("wrong_colour", "swap_noun", False),
        ("wrong_count", "swap_number", True),
        ("of_another_package", "of_another_package", True),
        ("of_another_package", "replace_word", False),
    ],
)
def test_kinds_of_variants(operation, negative, expected):
    assert is_trained_on(operation, ["swap_verb", negative]) == expected
    assert not is_trained_on(operation, [])


def test_general_operations_make_the_texts_of_special_ones(tmp_path: Path):
    """Which is why a model that was trained on the former has seen the latter."""
    wordnet = str(write_wordnet(tmp_path))
    vocabulary = Vocabulary(("two", "dogs", "near", "it", "cat", "horse", "three"))
    context = TextContext((CAPTION,), vocabulary)
    for special, general in (
        (SwapWords(), ShuffleWords()),
        *((drop, DropWord()) for drop in (DropNumber(), DropRelation(), DropNoun(wordnet=wordnet))),
        (SwapNoun(candidates="vocabulary", wordnet=wordnet), ReplaceWord()),
    ):
        made = outcomes(special, CAPTION, context)
        assert made - {CAPTION}, special.name
        assert made <= outcomes(general, CAPTION, context, draws=600), special.name
        assert is_trained_on(special.name, [general.name])
    # only a number, and a relation of a single word, are replaced by words of any vocabulary
    for special in (SwapNumber(), SwapRelation()):
        assert is_trained_on(special.name, ["replace_word"])


def test_every_operation_of_the_card_is_trained_on_by_some_operation():
    captions = [("two red dogs near a big cat",), ("a horse",)]
    of_text = {of.operation for of in make_variants(captions, [0, 1], 0).ladders if of.type == "I"}
    scenes = Scenes(num_test=2, captions_per_image=1, seed=0)
    of_scenes = claims_of_ladders(scenes.structured_captions("test"), scenes.truth("test"), [0, 1], 0)
    wrong = {name for name in of_scenes if name.startswith("wrong_")}
    assert len(wrong) == 7
    general = ["shuffle_words", "drop_word", "replace_word"]
    assert all(is_trained_on(name, general) for name in of_text | wrong)
