"""Reads the files of a report card back into its figures, and compares two report cards."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ascl_lightning.data.variants.ladder import UNCHANGED, Variants
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.report_card.callback import ROWS, VARIANTS
from ascl_lightning.evaluation.report_card.curves import CardFigures, Outcome, Step
from ascl_lightning.evaluation.report_card.rows import SCHEMA
from ascl_lightning.evaluation.run_files import CARD
from ascl_lightning.metrics.intervals import Difference, Drawn, holm
from ascl_lightning.metrics.query_results import DIRECTIONS
from ascl_lightning.metrics.seed_draws import seeded_difference

_ADDED = ("blind_score",)
"""Columns that older cards do not have."""
_KEY = ("score", "operation", "level", "direction")


def read_card(folder: Path) -> CardFigures:
    """The figures of a report card; images without texts are left out.

    A card of an older version has no text-only control, and all its operations count as trained on.

    Args:
        folder: Folder of a run that wrote a report card.

    Raises:
        UserError: If the files are missing or damaged.
    """
    variants = Variants.load(folder / VARIANTS)
    path = folder / ROWS
    try:
        table = parquet.read_table(path)
        names = [name for name in SCHEMA.names if name in table.column_names or name not in _ADDED]
        columns = {name: np.array(table.column(name).to_pylist()) for name in names}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path}: no rows of a report card ({error}); validate again") from error
    return _figures(variants, columns, path, _trained_on(folder / CARD))


def compare_cards(a: Path, b: Path) -> dict[str, dict[str, Difference]]:
    """Differences b - a of the figures of two report cards, by score.

    Args:
        a: Folder of a run that wrote a report card.
        b: Folder of another one on the same data.

    Returns:
        For each score of both, its differences by type and, as `I, unseen in both`, over the operations of type I that
        neither training used. Empty if the cards have other variants. Intervals and p-values are from the same draws
        of images for both; Holm's correction covers the figures of a score.

    Raises:
        UserError: If the files are missing or damaged.
    """
    of_a, of_b = (Variants.load(folder / VARIANTS) for folder in (a, b))
    if (of_a.text_rows, of_a.captions, of_a.ladders) != (of_b.text_rows, of_b.captions, of_b.ladders):
        return {}
    cards = read_card(a), read_card(b)
    unseen = [name for name in cards[0].unseen_operations if name in cards[1].unseen_operations]
    first, second = (_drawn_figures(card, unseen) for card in cards)
    found = {}
    for score in (score for score in first if score in second):
        pairs = zip(first[score].items(), second[score].values(), strict=True)
        differences = {name: seeded_difference(drawn, other) for (name, drawn), other in pairs}
        adjusted = holm({name: difference.p_value for name, difference in differences.items()})
        found[score] = {name: replace(of, holm_p_value=adjusted[name]) for name, of in differences.items()}
    return found


def _drawn_figures(card: CardFigures, unseen: Collection[str]) -> dict[str, dict[str, Drawn]]:
    """The figures of each score by type, and over the given operations of type I, if there are any."""
    figures: dict[str, dict[str, Drawn]] = {score: {} for score in card.scores}
    for type_, of_scores in card.drawn().items():
        for score, drawn in of_scores.items():
            figures[score][type_] = drawn
            if type_ == "I" and unseen:
                figures[score]["I, unseen in both"] = card.drawn_preference(unseen, score)
    return figures


def _trained_on(path: Path) -> list[str]:
    """The operations that are marked as trained on."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["discrimination"]
        return [row["operation"] for row in rows if row.get("trained_on", True)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no report card ({error!r}); validate again") from error


def _figures(
    variants: Variants, columns: dict[str, np.ndarray], path: Path, trained_on: Collection[str]
) -> CardFigures:
    images, number = np.unique(columns["image"], return_inverse=True)
    rows: dict[tuple[str, str, float, str], list[int]] = {}
    for row, key in enumerate(zip(*(columns[name].tolist() for name in _KEY), strict=True)):
        rows.setdefault(key, []).append(row)
    scores = list(dict.fromkeys(columns["score"].tolist()))

    def rows_of(score: str, operation: str, level: float, direction: str) -> np.ndarray:
        found = np.array(rows.get((score, operation, level, direction), []), dtype=np.int64)
        if direction == "text_to_image" and columns["query"][found].tolist() != list(variants.text_rows):
            raise UserError(f"{path}: '{operation}' has other captions than {VARIANTS}; validate again")
        return found

    def outcome(score: str, operation: str, level: float) -> Outcome:
        of_images, of_texts = (rows_of(score, operation, level, direction) for direction in DIRECTIONS)
        ranks = np.zeros(len(images), np.int64)
        ranks[number[of_images]] = columns["rank"][of_images]
        own = columns["own_score"][of_texts].astype(float)
        blind = columns["blind_score"][of_texts].astype(float) if "blind_score" in columns else None
        if blind is not None and np.isnan(blind).any():
            blind = None
        return Outcome(ranks, columns["rank"][of_texts], own, blind)

    def step(operation: str, level: float) -> Step:
        changed = columns["changed"][rows_of(scores[0], operation, level, "text_to_image")]
        return Step(level, changed, {score: outcome(score, operation, level) for score in scores})

    ladders = [
        ladder.with_steps([step(ladder.operation, of.level) for of in ladder.steps]) for ladder in variants.ladders
    ]
    owner = number[rows_of(scores[0], UNCHANGED, 0.0, "text_to_image")]
    words = np.array([text.count(" ") + 1 for text in variants.captions])
    unchanged = {score: outcome(score, UNCHANGED, 0.0) for score in scores}
    return CardFigures(unchanged, ladders, owner, words, trained_on=trained_on)
