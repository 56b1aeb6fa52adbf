"""Metrics of the asymmetry report card: recall for captions with missing, extra or wrong content.

They are computed from the scores of a gallery's images with unchanged captions and with variants. Values are
percentages with 95% bootstrap confidence intervals over images (`metrics.intervals`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from ascl_lightning.data.variants.ladder import Ladder
from ascl_lightning.metrics.choices import is_preferred
from ascl_lightning.metrics.intervals import DRAWS, Drawn, Interval, Redraws
from ascl_lightning.metrics.query_results import RECALL_AT
from ascl_lightning.metrics.ranks import ranks_from_similarity

WORDS_OF_BIN, LAST_BIN = 4, 6
"""Bins of caption length: 1 to 4 words, 5 to 8 and so on; the last bin has 25 and more."""

DEFINITIONS: Mapping[str, str] = {
    "I": "How often an image scores its caption higher than a variant with one wrong, missing or misplaced word; ties "
    "count as failures. Mean over operations, each over the captions that it changes.",
    "II": "Area under the curve of recall over the number of appended captions, divided by the recall of the unchanged "
    "captions, both summed over operations, directions, R@1, 5 and 10. At 100, extra words cost no recall.",
    "III": "Area under the curve of recall over the kept part of a caption, divided by the recall of the unchanged "
    "captions, both summed over operations, directions, R@1, 5 and 10. At 100, missing words cost no recall.",
}
"""Definition of the summary value of each type."""
UNSEEN = "The figure of type I over the operations that were not trained on: the training used no T- of the same kind."
"""Definition of `Unseen`."""
AREA = "mean height of the curve: area by the trapezoidal rule, divided by the range of x"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Ranks by one score, with one text in place of each caption."""

    image_ranks: Int[np.ndarray, " N"]
    """Rank of each image's best own text; 0 for an image without text."""
    text_ranks: Int[np.ndarray, " M"]
    """Rank of each text's image."""
    own_scores: Float[np.ndarray, " M"]
    """Score of each text with its image."""
    blind_scores: Float[np.ndarray, " M"] | None = None
    """Score of each text with a blind picture (`metrics.choices.blind_scores`); None without other images."""

    @classmethod
    def of(
        cls,
        similarity: Float[Tensor, "N M"],
        image_of_text: Integer[Tensor, " M"],
        blind_scores: Float[np.ndarray, " M"] | None = None,
    ) -> "Outcome":
        """Computes the outcome from the scores of all images with all texts."""
        images, texts = ranks_from_similarity(similarity, image_of_text)
        own = similarity.gather(0, image_of_text[None]).squeeze(0)
        return cls(images.numpy(), texts.numpy(), own.to(torch.float64).numpy(), blind_scores)


@dataclass(frozen=True, eq=False)
class Step:
    """One level of an operation.

    Args:
        level: Level in the operation's unit.
        changed: Whether each caption is changed.
        outcomes: Outcomes by score.
    """

    level: float
    changed: Bool[np.ndarray, " M"]
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True)
class Curve:
    """Recall over the levels of an operation, or over the length of captions."""

    type: str
    """`I`, `II`, `III` or `length`."""
    name: str
    """The operation."""
    exact: bool
    score: str
    direction: str
    metric: str
    x_label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    n: list[int]
    """Number of queries at each x; in a curve over levels, those that the operation changes."""
    area: float
    """See `AREA`."""
    area_low: float
    area_high: float
    slope: float
    """Slope of the least-squares line, weighted by the number of queries."""


@dataclass(frozen=True)
class Discrimination:
    """How often a caption scores higher than its variant with its own image."""

    operation: str
    exact: bool
    score: str
    n: int
    """Number of captions that the operation changes."""
    trained_on: bool
    """Whether the training used T- of the same kind."""
    value: float
    low: float
    high: float
    control: Interval | None
    """The same without the picture; None without other images."""


@dataclass(frozen=True)
class Unseen:
    """The figure of type I over operations that were not trained on; see `UNSEEN`."""

    operations: list[str]
    value: dict[str, Interval]
    """By score."""
    control: Interval | None
    """See `Discrimination`."""


@dataclass(frozen=True)
class _Query:
    """The queries of a curve, in one direction."""

    direction: str
    numbers: Int[np.ndarray, " Q"]
    images: Int[np.ndarray, " Q"]

    def hits(self, outcome: Outcome, k: int) -> Float[np.ndarray, " Q"]:
        ranks = outcome.image_ranks if self.direction == "image_to_text" else outcome.text_ranks
        return 100.0 * (ranks[self.numbers] <= k)


class CardFigures:
    """Curves, discrimination and the summary value of each type.

    Args:
        unchanged: Outcome of the unchanged captions, by score.
        ladders: Levels of each operation.
        image_of_text: Number of each caption's image.
        num_words: Number of words of each caption.
        trained_on: Operations of type I whose kind of variant the training used as T-.
        draws: Number of bootstrap samples.
    """

    def __init__(
        self,
        unchanged: Mapping[str, Outcome],
        ladders: Sequence[Ladder[Step]],
        image_of_text: Integer[np.ndarray, " M"],
        num_words: Integer[np.ndarray, " M"],
        *,
        trained_on: Collection[str] = (),
        draws: int = DRAWS,
    ) -> None:
        self.scores = list(unchanged)
        self.ladders = ladders
        self.unchanged = unchanged
        self._owner = image_of_text
        self._num_words = num_words
        self._trained_on = trained_on
        self._num_images = len(next(iter(unchanged.values())).image_ranks)
        self._draws = draws

    @cached_property
    def _redraws(self) -> Redraws:
        return Redraws(self._num_images, self._draws)

    def curves(self) -> list[Curve]:
        """Recall over the levels of each operation and over caption length, for each score and direction."""
        found: list[Curve] = []
        for score in self.scores:
            for ladder in self.ladders:
                found += self._over_levels(ladder, score)
            found += self._over_words(score)
        return found

    def discrimination(self) -> list[Discrimination]:
        """Discrimination of each operation of type I, for each score."""
        return [
            Discrimination(
                operation=ladder.operation,
                exact=ladder.exact,
                score=score,
                n=int(ladder.steps[0].changed.sum()),
                trained_on=ladder.operation in self._trained_on,
                **vars(self._redraws.interval(self._mean_preferred([ladder], score))),
                control=self._interval(self._mean_control([ladder])),
            )
            for score in self.scores
            for ladder in self._of_type("I")
        ]

    def figures(self) -> dict[str, dict[str, Interval]]:
        """The summary value of each type with operations, by score; see `DEFINITIONS`."""
        return {
            type_: {score: self._redraws.interval(drawn, is_share=type_ == "I") for score, drawn in of_scores.items()}
            for type_, of_scores in self.drawn().items()
        }

    def drawn(self) -> dict[str, dict[str, Drawn]]:
        """The summary value of each type by score, of the original images and in each bootstrap draw."""
        found: dict[str, dict[str, Drawn]] = {}
        for type_ in DEFINITIONS:
            ladders = self._of_type(type_)
            measure = self._mean_preferred if type_ == "I" else self._retained
            for score in self.scores if ladders else ():
                found.setdefault(type_, {})[score] = measure(ladders, score)
        return found

    def drawn_rsum(self, operation: str, level: float, score: str) -> Drawn | None:
        """Sum of recalls at one level of an operation, as `drawn`; None if the card does not have it."""
        for ladder in self.ladders:
            if ladder.operation == operation and level in (levels := _levels(ladder).tolist()):
                recalls = [self._recalls(ladder, score, query, k) for query in self._queries(ladder) for k in RECALL_AT]
                return np.sum(recalls, axis=0)[:, levels.index(level)]
        return None

    def control(self) -> Interval | None:
        """The figure of type I without the picture; None without operations of type I or without other images."""
        return self._interval(self._mean_control(self._of_type("I")))

    @property
    def unseen_operations(self) -> list[str]:
        """The operations of type I that were not trained on."""
        return [ladder.operation for ladder in self._of_type("I") if ladder.operation not in self._trained_on]

    def unseen(self) -> Unseen | None:
        """The figure of type I over operations that were not trained on; None if there are none."""
        operations = self.unseen_operations
        if not operations:
            return None
        value = {score: self._redraws.interval(self.drawn_preference(operations, score)) for score in self.scores}
        return Unseen(operations, value, self._interval(self.drawn_control(operations)))

    def drawn_preference(self, operations: Collection[str], score: str) -> Drawn:
        """The figure of type I over some operations of that type, as `drawn`."""
        return self._mean_preferred([ladder for ladder in self.ladders if ladder.operation in operations], score)

    def drawn_control(self, operations: Collection[str]) -> Drawn | None:
        """As `drawn_preference`, without the picture; None without other images."""
        return self._mean_control([ladder for ladder in self.ladders if ladder.operation in operations])

    def _of_type(self, type_: str) -> list[Ladder[Step]]:
        return [ladder for ladder in self.ladders if ladder.type == type_]

    def _mean_preferred(self, ladders: Sequence[Ladder[Step]], score: str) -> Drawn:
        """How often changed captions score higher than their variants, as the mean over operations."""
        own = self.unchanged[score].own_scores
        return self._mean_share(ladders, [is_preferred(own, of.steps[0].outcomes[score].own_scores) for of in ladders])

    def _interval(self, drawn: Drawn | None) -> Interval | None:
        return None if drawn is None else self._redraws.interval(drawn)

    def _mean_control(self, ladders: Sequence[Ladder[Step]]) -> Drawn | None:
        """As `_mean_preferred`, with a blind picture in the place of the image; None without other images."""
        preferred = []
        for ladder in ladders:
            texts = (self.unchanged[self.scores[0]], ladder.steps[0].outcomes[self.scores[0]])
            blind, wrong = (outcome.blind_scores for outcome in texts)
            if blind is None or wrong is None:
                return None
            preferred.append(is_preferred(blind, wrong))
        return self._mean_share(ladders, preferred) if preferred else None

    def _mean_share(self, ladders: Sequence[Ladder[Step]], hits: Sequence[Bool[np.ndarray, " M"]]) -> Drawn:
        """Share of hits among the captions that an operation changes, as the mean over operations."""
        drawn = []
        for ladder, of_ladder in zip(ladders, hits, strict=True):
            changed = ladder.steps[0].changed
            drawn.append(self._redraws.means(100.0 * of_ladder[changed, None], self._owner[changed])[:, 0])
        mean: Drawn = np.mean(drawn, axis=0)
        return mean

    def _retained(self, ladders: Sequence[Ladder[Step]], score: str) -> Drawn:
        areas, wholes = [], []
        for ladder in ladders:
            x = _levels(ladder)
            for query in self._queries(ladder):
                for k in RECALL_AT:
                    means = self._recalls(ladder, score, query, k)
                    areas.append(_area(x, means))
                    wholes.append(means[:, 0])
        area, whole = np.sum(areas, axis=0), np.sum(wholes, axis=0)
        # without any recall the share is 0
        share: Drawn = 100 * np.divide(area, whole, out=np.zeros_like(area), where=whole > 0)
        return share

    def _queries(self, ladder: Ladder[Step]) -> Iterator[_Query]:
        """Queries that an operation changes: texts, and images with such a text."""
        texts = np.flatnonzero(_changed(ladder))
        images = np.unique(self._owner[texts])
        yield _Query("image_to_text", images, images)
        yield _Query("text_to_image", texts, self._owner[texts])

    def _recalls(self, ladder: Ladder[Step], score: str, query: _Query, k: int) -> Float[np.ndarray, "B L"]:
        outcomes = [self.unchanged[score], *(step.outcomes[score] for step in ladder.steps)]
        return self._redraws.means(np.stack([query.hits(outcome, k) for outcome in outcomes], axis=1), query.images)

    def _over_levels(self, ladder: Ladder[Step], score: str) -> Iterator[Curve]:
        x = _levels(ladder)
        for query in self._queries(ladder):
            n = np.full(len(x), len(query.numbers))
            about = (ladder.type, ladder.operation, ladder.exact, score, query.direction)
            for k in RECALL_AT:
                yield self._curve(about, k, ladder.unit, x, self._recalls(ladder, score, query, k), n)

    def _over_words(self, score: str) -> Iterator[Curve]:
        """Recall over caption length; an image has the mean length of its captions."""
        texts_of = np.bincount(self._owner, minlength=self._num_images)
        images = np.flatnonzero(texts_of)
        of_image = np.bincount(self._owner, self._num_words, self._num_images)[images] / texts_of[images]
        texts = np.arange(len(self._owner))
        for query, words in (
            (_Query("image_to_text", images, images), of_image),
            (_Query("text_to_image", texts, self._owner), self._num_words.astype(float)),
        ):
            bins = np.minimum((np.ceil(words).astype(int) - 1) // WORDS_OF_BIN, LAST_BIN)
            inside = (bins[:, None] == np.unique(bins)).astype(float)
            n = inside.sum(axis=0).astype(int)
            x = (words[:, None] * inside).sum(axis=0) / n
            for k in RECALL_AT:
                hits = query.hits(self.unchanged[score], k)[:, None] * inside
                with np.errstate(invalid="ignore"):
                    means = self._redraws.means(hits, query.images) / self._redraws.means(inside, query.images)
                about = ("length", "caption_length", False, score, query.direction)
                yield self._curve(about, k, "words of the caption", x, means, n)

    def _curve(
        self,
        about: tuple[str, str, bool, str, str],
        k: int,
        x_label: str,
        x: Float[np.ndarray, " L"],
        means: Float[np.ndarray, "B L"],
        n: Int[np.ndarray, " L"],
    ) -> Curve:
        points = [self._redraws.interval(column) for column in means.T]
        area = self._redraws.interval(_area(x, means))
        type_, name, exact, score, direction = about
        return Curve(
            type=type_,
            name=name,
            exact=exact,
            score=score,
            direction=direction,
            metric=f"recall_at_{k}",
            x_label=x_label,
            x=x.tolist(),
            y=[point.value for point in points],
            low=[point.low for point in points],
            high=[point.high for point in points],
            n=n.tolist(),
            area=area.value,
            area_low=area.low,
            area_high=area.high,
            slope=_slope(x, means[0], n),
        )


def _changed(ladder: Ladder[Step]) -> Bool[np.ndarray, " M"]:
    """Whether an operation changes each caption at any level."""
    changed: np.ndarray = np.logical_or.reduce([step.changed for step in ladder.steps])
    return changed


def _levels(ladder: Ladder[Step]) -> Float[np.ndarray, " L"]:
    return np.array([ladder.unchanged, *(step.level for step in ladder.steps)], float)


def _area(x: Float[np.ndarray, " L"], heights: Float[np.ndarray, "B L"]) -> Drawn:
    """Mean height of curves; the height of a single point."""
    if len(x) == 1:
        return heights[:, 0]
    widths = np.abs(np.diff(x))
    area: Drawn = ((heights[:, 1:] + heights[:, :-1]) / 2) @ widths / widths.sum()
    return area


def _slope(x: Float[np.ndarray, " L"], y: Float[np.ndarray, " L"], n: Int[np.ndarray, " L"]) -> float:
    """Weighted least-squares slope; 0 for a single point."""
    offset = x - np.average(x, weights=n)
    spread = (n * offset**2).sum()
    return float((n * offset * y).sum() / spread) if spread > 0 else 0.0
