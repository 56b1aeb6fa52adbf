import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ascl_lightning.data.variants.ladder import Ladder, Variants, VariantStep
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.curves import CardFigures, Outcome, Step
from ascl_lightning.evaluation.report_card.rows import write_rows
from ascl_lightning.evaluation.report_card.stored_card import compare_cards, read_card

CAPTIONS = ("a red kite", "two dogs", "a boat on a lake")
ROWS = (0, 5, 10)
SCORES = ("independent", "fused")


def outcome(generator):
    images, texts = generator.integers(1, 12, (2, 3))
    return Outcome(images, texts, generator.random(3), generator.random(3))


@pytest.fixture
def card(tmp_path):
    return write_card(tmp_path, 0, ["shuffle"])


def write_card(folder, seed, trained_on):
    """Random ranks of three operations, of which the first changes only two captions."""
    generator = np.random.default_rng(seed)
    texts = [VariantStep(1.0, ("kite a red", "dogs two", CAPTIONS[2])), *appended(1), *appended(2)]
    ladders = [Ladder("I", "shuffle", "", 0.0, (texts[0],)), Ladder("II", "append_others", "", 0.0, tuple(texts[1:]))]
    ladders.append(Ladder("I", "replace", "", 0.0, (VariantStep(1.0, ("a blue kite", "two cats", "a boat")),)))
    variants = Variants.of(0, ROWS, CAPTIONS, ladders, {})
    measured = []
    for ladder in variants.ladders:
        steps = []
        for step in ladder.steps:
            changed = np.array([text != was for text, was in zip(step.texts, CAPTIONS, strict=True)])
            steps.append(Step(step.level, changed, {score: outcome(generator) for score in SCORES}))
        measured.append(ladder.with_steps(steps))
    words = np.array([3, 2, 5])
    figures = CardFigures(
        {score: outcome(generator) for score in SCORES}, measured, np.arange(3), words, trained_on=trained_on
    )
    variants.save(folder / "variants.parquet", ["a", "b", "c"])
    write_rows(folder / "report_card.parquet", figures, np.arange(3), np.array([0, 1, 2]), ROWS)
    content = {"discrimination": [asdict(row) for row in figures.discrimination()]}
    (folder / "report_card.json").write_text(json.dumps(content))
    return figures


def appended(count):
    return [VariantStep(float(count), tuple(caption + " and more" * count for caption in CAPTIONS))]


def test_a_card_is_read_back(card, tmp_path):
    found = read_card(tmp_path)

    assert found.scores == list(SCORES)
    assert found.figures() == card.figures()
    assert found.discrimination() == card.discrimination()
    assert found.curves() == card.curves()
    assert found.unseen() == card.unseen()
    assert found.unseen().operations == ["replace"]
    assert found.control() == card.control() is not None


def test_an_older_card_has_neither_a_control_nor_unseen_operations(card, tmp_path):
    rows = tmp_path / "report_card.parquet"
    parquet.write_table(parquet.read_table(rows).drop_columns(["blind_score"]), rows)
    content = json.loads((tmp_path / "report_card.json").read_text())
    for row in content["discrimination"]:
        del row["trained_on"], row["control"]
    (tmp_path / "report_card.json").write_text(json.dumps(content))
    found = read_card(tmp_path)
    assert found.figures() == card.figures()
    assert (found.control(), found.unseen()) == (None, None)


def test_the_sum_of_recalls_at_a_level(card, tmp_path):
    drawn = read_card(tmp_path).drawn_rsum("append_others", 2.0, "fused")

    (step,) = [step for step in card.ladders[1].steps if step.level == 2.0]
    of = step.outcomes["fused"]
    expected = sum(100 * np.mean(ranks <= k) for ranks in (of.image_ranks, of.text_ranks) for k in (1, 5, 10))
    assert drawn[0] == pytest.approx(expected)
    assert len(drawn) == 2001
    assert card.drawn_rsum("append_others", 3.0, "fused") is None
    assert card.drawn_rsum("append_siblings", 1.0, "fused") is None


def test_type_i_without_the_picture_by_operation(card, tmp_path):
    found = read_card(tmp_path)

    for row in (row for row in card.discrimination() if row.score == "fused"):
        assert found.drawn_preference([row.operation], "fused")[0] == pytest.approx(row.value)
        assert found.drawn_control([row.operation])[0] == pytest.approx(row.control.value)


def test_damaged_files_are_named(card, tmp_path):
    rows, about = tmp_path / "report_card.parquet", tmp_path / "report_card.json"
    written = about.read_text()
    about.write_text("[]")
    with pytest.raises(UserError, match=r"report_card\.json: no report card"):
        read_card(tmp_path)
    about.write_text(written)
    table = parquet.read_table(rows)
    parquet.write_table(table.slice(0, len(table) - 1), rows)
    with pytest.raises(UserError, match="'replace' has other captions"):
        read_card(tmp_path)
    parquet.write_table(pa.table({"x": [1]}), rows)
    with pytest.raises(UserError, match=r"report_card\.parquet: no rows of a report card"):
        read_card(tmp_path)
    (tmp_path / "variants.parquet").unlink()
    with pytest.raises(UserError, match=r"variants\.parquet: the variants cannot be read"):
        read_card(tmp_path)


def test_cards_are_compared_on_the_same_draws(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
    one, other = write_card(a, 0, ["shuffle"]), write_card(b, 1, [])
    found = compare_cards(a, b)
    assert list(found) == list(SCORES)
    figures, others = one.figures(), other.figures()
    for score in SCORES:
        assert list(found[score]) == ["I", "I, unseen in both", "II"]
        for type_ in ("I", "II"):
            difference = found[score][type_]
            assert difference.a == pytest.approx(figures[type_][score].value)
            assert difference.b == pytest.approx(others[type_][score].value)
        # the share of three captions, by hand: unseen in both is the replacement alone
        wins = [
            of.unchanged[score].own_scores - of.ladders[2].steps[0].outcomes[score].own_scores for of in (one, other)
        ]
        before, after = (100.0 * (margins > 1e-5) for margins in wins)
        unseen = found[score]["I, unseen in both"]
        assert (unseen.a, unseen.b) == pytest.approx((before.mean(), after.mean()))
        drawn = np.random.default_rng((0,)).integers(3, size=(2000, 3))
        low, high = np.quantile((after - before)[drawn].mean(axis=1), [0.025, 0.975])
        assert (unseen.value, unseen.low, unseen.high) == pytest.approx(((after - before).mean(), low, high))
        assert min(of.holm_p_value for of in found[score].values()) >= min(of.p_value for of in found[score].values())


def test_a_card_does_not_differ_from_itself(card, tmp_path):
    for differences in compare_cards(tmp_path, tmp_path).values():
        for of in differences.values():
            assert (of.value, of.low, of.high, of.p_value) == (0, 0, 0, 1)


def test_cards_with_other_variants_are_not_compared(card, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_card(other, 0, [])
    variants = Variants.load(other / "variants.parquet")
    Variants.of(0, ROWS, CAPTIONS, variants.ladders[:2], {}).save(other / "variants.parquet", ["a", "b", "c"])
    assert compare_cards(tmp_path, other) == {}
