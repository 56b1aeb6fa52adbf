"""Metrics of a run under bootstrap draws of its images, or with images swapped between two runs.

A weighting, (N,), is the number of times that each image counts, with all its queries; the gallery does not change.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from ascl_lightning.metrics.query_results import DIRECTIONS, RECALL_AT, SHARES, DirectionQueries, Queries

_CELLS = 1 << 20
"""Most weights in memory: the size of a block of draws."""
_ROUNDING = 1e-12

Figures = dict[str, np.ndarray]
"""Metrics under B weightings of the images, (B,) each."""


class Means:
    """Means over queries under weightings of the images."""

    def __init__(self, values: Mapping[str, np.ndarray], image: np.ndarray, num_images: int) -> None:
        self._names = list(values)
        columns = [np.bincount(image, weights=column, minlength=num_images) for column in values.values()]
        self._sums = np.stack([*columns, np.bincount(image, minlength=num_images)], axis=1)
        self._once = np.ones((1, num_images))

    def of(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        """The means under each weighting; NaN if it has no query."""
        totals = weights @ self._sums
        with np.errstate(invalid="ignore"):  # a draw of images without queries
            means = totals[:, :-1] / totals[:, -1:]
        return dict(zip(self._names, means.T, strict=True))

    def pivoted(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        """Values whose quantiles are the ends of the bootstrap-t interval (Efron and Tibshirani 1993, section 12.5).

        They are the unweighted mean minus the t statistic of each weighting times the standard error of the mean. For
        skewed values, their coverage is better than that of quantiles of the means. NaN if a weighting has no error.
        """
        values, drawn = self.of(self._once), self.of(weights)
        errors, drawn_errors = self._errors(self._once), self._errors(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = {name: (drawn[name] - values[name]) / drawn_errors[name] for name in self._names}
        return {
            name: values[name] - np.where(np.isfinite(t[name]), t[name], np.nan) * errors[name]
            if errors[name] > 0
            else np.broadcast_to(values[name], len(weights))
            for name in self._names
        }

    def _errors(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        """Standard errors of the means, treated as ratios of sums over images."""
        sums, counts = self._sums[:, :-1], self._sums[:, -1:]
        means = np.stack(list(self.of(weights).values()), axis=1)
        squared = weights @ sums**2
        residual = squared - 2 * means * (weights @ (sums * counts)) + means**2 * (weights @ counts**2)
        with np.errstate(invalid="ignore"):
            # residuals within rounding error are 0
            errors = np.sqrt(np.where(residual > _ROUNDING * squared, residual, 0)) / (weights @ counts)
        return dict(zip(self._names, errors.T, strict=True))


class _Medians:
    """Median ranks under weightings of the images (docs/method.md#evaluation)."""

    def __init__(self, ranks: np.ndarray, image: np.ndarray, num_images: int) -> None:
        order = np.argsort(ranks, kind="stable")
        self._ranks = ranks[order]
        self._image = image[order]
        self._counts = np.bincount(image, minlength=num_images)
        # five standard errors of the number of drawn queries before the middle
        spread = 5 * math.sqrt(np.square(self._counts).sum())
        middle = len(ranks) / 2
        self._window = slice(max(0, int(middle - spread)), min(len(ranks), int(middle + spread) + 1))

    def of(self, weights: Float[np.ndarray, "B N"]) -> Float[np.ndarray, " B"]:
        total = weights @ self._counts
        # a draw of images without queries has no median: replace its weights here, and the result below
        weights = np.where(total[:, None] > 0, weights, 1.0) if (total == 0).any() else weights
        sizes = np.where(total > 0, total, len(self._ranks))
        # the two middle positions, equal if the number is odd
        places = np.stack([(sizes - 1) // 2, sizes // 2])
        found = self._at(places, weights, self._window)
        if found is None:
            found = self._at(places, weights, slice(0, len(self._ranks)))
        assert found is not None
        return np.where(total > 0, found.sum(axis=0) // 2, np.nan)

    def _at(
        self, places: Float[np.ndarray, "2 B"], weights: Float[np.ndarray, "B N"], window: slice
    ) -> Integer[np.ndarray, "2 B"] | None:
        """Ranks at these positions of the weighted, sorted ranks; None if one is outside the window."""
        before = weights @ np.bincount(self._image[: window.start], minlength=len(self._counts))
        reached = weights[:, self._image[window]].cumsum(axis=1) + before[:, None]
        if (before > places[0]).any() or (reached[:, -1] <= places[1]).any():
            return None
        return self._ranks[window][np.stack([(reached <= place[:, None]).sum(axis=1) for place in places])]


@dataclass(frozen=True)
class _Direction:
    """Queries of one direction, with image numbers of the sample."""

    values: Mapping[str, np.ndarray]
    ranks: np.ndarray
    image: np.ndarray

    @classmethod
    def of(cls, rows: DirectionQueries, images: np.ndarray) -> "_Direction":
        columns = rows.columns()
        values = {f"recall_at_{k}": 100.0 * (rows.rank <= k) for k in RECALL_AT}
        values["mean_rank"] = rows.rank.astype(np.float64)
        values |= {name: 100.0 * columns[name] for name in SHARES if name in columns}
        return cls(values, rows.rank, np.searchsorted(images, rows.image))


class Sample:
    """Queries of a run, prepared for weightings of the images."""

    def __init__(self, directions: Mapping[str, _Direction], num_images: int) -> None:
        self.num_images = num_images
        self.directions = directions
        self._means = {name: Means(way.values, way.image, num_images) for name, way in directions.items()}
        self._mean_ranks = {
            name: Means({"mean_rank": way.values["mean_rank"]}, way.image, num_images)
            for name, way in directions.items()
        }
        self._medians = {name: _Medians(way.ranks, way.image, num_images) for name, way in directions.items()}

    @classmethod
    def of(cls, queries: Queries) -> "Sample":
        """Builds a sample of the images that have a query, in the order of their numbers.

        Raises:
            ValueError: If a direction has no query.
        """
        for name, rows in queries.directions().items():
            if len(rows) == 0:
                raise ValueError(f"{name}: there is no query to measure")
        images = np.unique(np.concatenate([rows.image for rows in queries.directions().values()]))
        return cls({name: _Direction.of(rows, images) for name, rows in queries.directions().items()}, len(images))

    @property
    def num_cells(self) -> int:
        """Numbers in memory per weighting."""
        return max(self.num_images, *(len(way.ranks) for way in self.directions.values()))

    def figures(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        """All metrics under each weighting, with the keys of `retrieval_metrics` and of `SHARES`."""
        figures: Figures = {}
        rsum = np.zeros(len(weights))
        for name in DIRECTIONS:
            means = self._means[name].of(weights)
            figures |= {f"{name}/{figure}": column for figure, column in means.items()}
            figures[f"{name}/median_rank"] = self._medians[name].of(weights)
            rsum += sum(means[f"recall_at_{k}"] for k in RECALL_AT)
        return figures | {"rsum": rsum}

    def value(self) -> dict[str, float]:
        """All metrics with each image counted once."""
        return {name: float(column[0]) for name, column in self.figures(np.ones((1, self.num_images))).items()}

    def drawn(self, draws: int, seed: tuple[int, ...]) -> Figures:
        """All metrics in each draw."""
        return stacked(self.figures(weights) for weights in self._redrawn(draws, seed))

    def pivoted(self, draws: int, seed: tuple[int, ...]) -> Figures:
        """All metrics in each draw, with `Means.pivoted` for mean ranks, which are skewed."""
        return stacked(self.figures(weights) | self._pivots(weights) for weights in self._redrawn(draws, seed))

    def _pivots(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        return {f"{name}/mean_rank": ranks.pivoted(weights)["mean_rank"] for name, ranks in self._mean_ranks.items()}

    def _redrawn(self, draws: int, seed: tuple[int, ...]) -> Iterator[Float[np.ndarray, "B N"]]:
        return redrawn(self.num_images, self.num_cells, draws, seed)


def swapped_figures(a: Sample, b: Sample, draws: int, seed: tuple[int, ...]) -> Figures:
    """Differences, b - a, after swapping the results of each image between the runs with probability 1/2."""
    num_images = a.num_images
    both = Sample(
        {name: _joined(a.directions[name], b.directions[name], num_images) for name in DIRECTIONS}, 2 * num_images
    )
    generator = np.random.default_rng(seed)
    blocks = []
    for size in _block_sizes(draws, both.num_cells):
        swap = generator.integers(2, size=(size, num_images)).astype(np.float64)
        in_b = both.figures(np.hstack([swap, 1 - swap]))
        in_a = both.figures(np.hstack([1 - swap, swap]))
        blocks.append({name: in_b[name] - in_a[name] for name in in_b})
    return stacked(blocks)


def _joined(a: _Direction, b: _Direction, num_images: int) -> _Direction:
    """Queries of both runs; image numbers of b follow those of a."""
    values = {name: np.concatenate([a.values[name], b.values[name]]) for name in a.values if name in b.values}
    return _Direction(values, np.concatenate([a.ranks, b.ranks]), np.concatenate([a.image, b.image + num_images]))


def redrawn(num_images: int, num_cells: int, draws: int, seed: tuple[int, ...]) -> Iterator[Float[np.ndarray, "B N"]]:
    """Yields blocks of draws: the number of times that each image is drawn. Block sizes do not affect the draws."""
    generator = np.random.default_rng(seed)
    for size in _block_sizes(draws, num_cells):
        cells = generator.integers(num_images, size=(size, num_images)) + num_images * np.arange(size)[:, None]
        counts = np.bincount(cells.ravel(), minlength=size * num_images)
        yield counts.reshape(size, num_images).astype(np.float64)


def _block_sizes(draws: int, num_cells: int) -> Iterator[int]:
    block = max(1, _CELLS // num_cells)
    for start in range(0, draws, block):
        yield min(block, draws - start)


def stacked(blocks: Iterable[Figures]) -> Figures:
    """Concatenates the weightings of all blocks."""
    blocks = list(blocks)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
