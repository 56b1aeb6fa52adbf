from itertools import pairwise

import numpy as np
import pytest

from ascl_lightning.data.scenes.ladders import claims_of_ladders
from ascl_lightning.data.scenes.variants import DETAILS
from ascl_lightning.data.sources.scenes import Scenes
from ascl_lightning.data.text import clean_caption
from ascl_lightning.data.variants.captions import WORD_ORDER, make_variants
from ascl_lightning.errors import UserError

SCENES = Scenes(num_test=12, captions_per_image=3, seed=2)
TRUTH = SCENES.truth("test")
CAPTIONS = SCENES.structured_captions("test")
ROWS = [0, 1, 7, 20, 35]
CLAIMS = claims_of_ladders(CAPTIONS, TRUTH, ROWS, seed=6)
LADDERS = SCENES.exact_variants(None, "test", ROWS, 6)


def test_true_variants_are_true_and_false_ones_are_false():
    """But for a detail that a caption does not tell, which cannot be wrong."""
    wrong = 0
    for operation, levels in CLAIMS.items():
        false = operation == "append_others" or operation.startswith("wrong_")
        for claims in levels:
            for row, claim in zip(ROWS, claims, strict=True):
                unchanged = claim == CAPTIONS[row // 3][row % 3]
                assert claim.holds(TRUTH)[row // 3] == (unchanged or not false), (operation, claim.text)
                wrong += false and not unchanged
    assert wrong > 20


def test_levels_grow():
    assert {operation: len(levels) for operation, levels in CLAIMS.items()} == {
        "leave_out_facts": 3,
        "append_siblings": 2,
        "append_others": 4,
        **{f"wrong_{detail}": 1 for detail in DETAILS},
    }
    for place in range(len(ROWS)):
        for shorter, longer in pairwise(CLAIMS["append_others"]):
            assert longer[place].sentences[:-1] == shorter[place].sentences
        less = [claims[place].holds(TRUTH) for claims in CLAIMS["leave_out_facts"]]
        assert all(np.all(more[holds]) for holds, more in pairwise(less))


def test_ladders_are_the_english_of_the_parsed_variants():
    assert [ladder.operation for ladder in LADDERS] == list(CLAIMS)
    for ladder in LADDERS:
        assert ladder.exact
        for level, (step, claims) in enumerate(zip(ladder.steps, CLAIMS[ladder.operation], strict=True), start=1):
            assert step.level == level
            assert step.texts == tuple(clean_caption(claim.text, max_words=None) for claim in claims)


def test_variants_do_not_depend_on_the_other_captions():
    for ladder, alone in zip(LADDERS, SCENES.exact_variants(None, "test", [20], 6), strict=True):
        # fewer levels, where no caption has as many others
        for step, of_one in zip(ladder.steps, alone.steps, strict=False):
            assert of_one.texts == (step.texts[ROWS.index(20)],)


def test_only_word_order_is_added_to_exact_ladders():
    captions = SCENES.read(None, "test").captions
    made = make_variants(captions, ROWS, 6, exact=LADDERS)
    operations = {ladder.operation: ladder.exact for ladder in made.ladders}
    assert operations == {name: True for name in CLAIMS if name in operations} | dict.fromkeys(WORD_ORDER, False)
    assert {"wrong_colour", "leave_out_facts", "append_siblings"} <= operations.keys()


def test_a_missing_split_is_an_error():
    with pytest.raises(UserError, match="no split 'other'"):
        SCENES.exact_variants(None, "other", [0], 0)
