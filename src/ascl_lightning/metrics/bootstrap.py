"""How sure a figure is: intervals from drawing images again, and tests between two runs from swapping them.

Images are drawn with replacement and the captions of an image stay together; the gallery that they were ranked in
stays as it was. The draws follow from the seed and the number of images alone, so that all figures, and two runs on
the same images, meet the same ones.

A figure that is a share, such as a recall, has the interval of Wilson (1927) for as many independent queries as would
have the standard error that the draws show: unlike their quantiles it has a width at 0 and 100%, where no draw differs
from another, and covers near them (benchmarks/coverage.py). Ranks and differences have quantiles of the draws.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Integer, Num

from ascl_lightning.metrics.queries import DIRECTIONS, RECALL_AT, SHARES, DirectionQueries, Queries

DRAWS = 2000
"""Of which 50 lie beyond either end of an interval."""

_ENDS = (0.025, 0.975)
_Z = NormalDist().inv_cdf(_ENDS[1])
_CELLS = 1 << 20
"""Weights held at once: a block of draws has so many numbers."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What a figure of run B has more than that of run A.

    Attributes:
        a: The figure of A.
        b: The figure of B.
        value: b - a.
        low: Lower end of its 95% interval.
        high: Upper end.
        p_value: How often a swap of the two runs, image by image, gives a difference as large.
        holm_p_value: The same, corrected for the number of figures compared (Holm, 1979).
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p_value: float
    holm_p_value: float


def mean_interval(
    values: Num[np.ndarray, " Q"],
    clusters: Integer[np.ndarray, " Q"],
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean of a value of each query.

    Args:
        values: One of each query, (Q,); a boolean counts as 0 or 1.
        clusters: Number of each query's image, (Q,).
        bounds: What a value can be at least and at most; None where there is no such limit.
        draws: How often images are drawn.
        seed: Of the draws.

    Returns:
        The mean, in the unit of the values.

    Raises:
        ValueError: If there is no query, or a value is not within the bounds.

    Example:
        >>> interval = mean_interval(np.ones(100), np.arange(100))
        >>> interval.value, round(interval.low, 3), interval.high
        (1.0, 0.963, 1.0)
    """
    if len(values) == 0:
        raise ValueError("there is no query, so nothing to measure")
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    if not (values >= low).all() or not (values <= high).all():
        raise ValueError(f"a value is not within {low} and {high}")
    _, image = np.unique(clusters, return_inverse=True)
    num_images = int(image.max()) + 1
    means = _Means({"mean": values.astype(np.float64)}, image, num_images)
    drawn = _stacked(means.of(weights) for weights in redrawn(num_images, len(values), draws, (seed,)))
    return interval_of_draws(float(np.mean(values)), drawn["mean"], bounds, num_images)


def figure_intervals(queries: Queries, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """All figures of one score under one protocol.

    Args:
        queries: Of both directions.
        draws: How often images are drawn.
        seed: Of the draws.

    Returns:
        The keys of `retrieval_metrics`, and `{image_to_text,text_to_image}/{map_at_r,r_precision,ndcg}` where the
        queries have them; shares in percent.

    Raises:
        ValueError: If a direction has no query.
    """
    return fold_intervals([queries], draws=draws, seed=seed)


def fold_intervals(folds: Sequence[Queries], *, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """Mean over folds of all figures; images are drawn in each fold for itself.

    Args:
        folds: The queries of each fold, ranked among its own items.
        draws: How often images are drawn.
        seed: Of the draws.

    Returns:
        As `figure_intervals`.

    Raises:
        ValueError: If there is no fold, or a direction has no query.
    """
    if not folds:
        raise ValueError("there is no fold, so nothing to measure")
    samples = [_Sample.of(queries) for queries in folds]
    values = [sample.value() for sample in samples]
    drawn = [sample.drawn(draws, (seed, fold)) for fold, sample in enumerate(samples)]
    num_images = sum(sample.num_images for sample in samples)
    return {
        name: interval_of_draws(
            float(np.mean([fold[name] for fold in values])),
            np.mean([fold[name] for fold in drawn], axis=0),
            _bounds(name),
            num_images,
        )
        for name in values[0]
    }


def compare(a: Queries, b: Queries, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """Whether two runs on the same queries differ, figure by figure.

    The interval comes from drawing images for both runs alike. The p-value comes from swapping all that the two runs
    gave for an image, for each image with a chance of one half: were the runs alike, a swap would change nothing, so
    it is the share of swaps that give a difference at least as large, the observed one included.

    Args:
        a: Of run A.
        b: Of run B.
        draws: How often images are drawn, and how often swapped.
        seed: Of the draws.

    Returns:
        Each figure that both runs have, as in `figure_intervals`. Where the runs give the same for every image, the
        difference is 0, its interval [0, 0] and p = 1.

    Raises:
        ValueError: If the runs have other queries, or a direction has no query.
    """
    _check_same_queries(a, b)
    sample_a, sample_b = _Sample.of(a), _Sample.of(b)
    values_a, values_b = sample_a.value(), sample_b.value()
    drawn_a, drawn_b = sample_a.drawn(draws, (seed, 0)), sample_b.drawn(draws, (seed, 0))
    swapped = _swapped(sample_a, sample_b, draws, (seed, 1))
    names = [name for name in values_a if name in values_b]
    p_values = {name: _p_value(values_b[name] - values_a[name], swapped[name]) for name in names}
    adjusted = holm(p_values)
    differences = {}
    for name in names:
        low, high = np.quantile(drawn_b[name] - drawn_a[name], _ENDS)
        differences[name] = Difference(
            a=values_a[name],
            b=values_b[name],
            value=values_b[name] - values_a[name],
            low=float(low),
            high=float(high),
            p_value=p_values[name],
            holm_p_value=adjusted[name],
        )
    return differences


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values such that the chance of any false finding among them is bounded (Holm, Scand. J. Statist. 1979).

    Args:
        p_values: Of each of the tests that were made together.

    Returns:
        The corrected ones, under the same names.

    Example:
        >>> holm({"x": 0.01, "y": 0.04, "z": 0.03})
        {'x': 0.03, 'y': 0.06, 'z': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


Figures = dict[str, np.ndarray]
"""Figures of B weightings of the images, (B,) each."""


class _Means:
    """Means over queries under any weights of the images."""

    def __init__(self, values: Mapping[str, np.ndarray], image: np.ndarray, num_images: int) -> None:
        self._names = list(values)
        columns = [np.bincount(image, weights=column, minlength=num_images) for column in values.values()]
        self._sums = np.stack([*columns, np.bincount(image, minlength=num_images)], axis=1)

    def of(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        totals = weights @ self._sums
        with np.errstate(invalid="ignore"):  # a draw of images that are all without a query
            means = totals[:, :-1] / totals[:, -1:]
        return dict(zip(self._names, means.T, strict=True))


class _Medians:
    """Median of ranks under any weights of the images (METHOD section 5)."""

    def __init__(self, ranks: np.ndarray, image: np.ndarray, num_images: int) -> None:
        order = np.argsort(ranks, kind="stable")
        self._ranks = ranks[order]
        self._image = image[order]
        self._counts = np.bincount(image, minlength=num_images)
        # five standard errors of the number of drawn queries before a place
        spread = 5 * math.sqrt(np.square(self._counts).sum())
        middle = len(ranks) / 2
        self._window = slice(max(0, int(middle - spread)), min(len(ranks), int(middle + spread) + 1))

    def of(self, weights: Float[np.ndarray, "B N"]) -> Float[np.ndarray, " B"]:
        total = weights @ self._counts
        # a draw of images that are all without a query has no median; any other weights serve to find that out
        weights = np.where(total[:, None] > 0, weights, 1.0) if (total == 0).any() else weights
        sizes = np.where(total > 0, total, len(self._ranks))
        # the two middle places, which are one where the number is odd
        places = np.stack([(sizes - 1) // 2, sizes // 2])
        found = self._at(places, weights, self._window)
        if found is None:
            found = self._at(places, weights, slice(0, len(self._ranks)))
        assert found is not None
        return np.where(total > 0, found.sum(axis=0) // 2, np.nan)

    def _at(
        self, places: Float[np.ndarray, "2 B"], weights: Float[np.ndarray, "B N"], window: slice
    ) -> Integer[np.ndarray, "2 B"] | None:
        """Ranks at these places of the weighted and sorted ranks; None where one lies outside of the window."""
        before = weights @ np.bincount(self._image[: window.start], minlength=len(self._counts))
        reached = weights[:, self._image[window]].cumsum(axis=1) + before[:, None]
        if (before > places[0]).any() or (reached[:, -1] <= places[1]).any():
            return None
        return self._ranks[window][np.stack([(reached <= place[:, None]).sum(axis=1) for place in places])]


@dataclass(frozen=True)
class _Direction:
    """The queries of one direction, with their images numbered as in the sample."""

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


class _Sample:
    """The queries of a run, ready to be weighed by image."""

    def __init__(self, directions: Mapping[str, _Direction], num_images: int) -> None:
        self.num_images = num_images
        self.directions = directions
        self._means = {name: _Means(way.values, way.image, num_images) for name, way in directions.items()}
        self._medians = {name: _Medians(way.ranks, way.image, num_images) for name, way in directions.items()}

    @classmethod
    def of(cls, queries: Queries) -> "_Sample":
        for name, rows in queries.directions().items():
            if len(rows) == 0:
                raise ValueError(f"{name}: there is no query, so nothing to measure")
        images = np.unique(np.concatenate([rows.image for rows in queries.directions().values()]))
        return cls({name: _Direction.of(rows, images) for name, rows in queries.directions().items()}, len(images))

    @property
    def num_cells(self) -> int:
        """Numbers that one weighting takes."""
        return max(self.num_images, *(len(way.ranks) for way in self.directions.values()))

    def figures(self, weights: Float[np.ndarray, "B N"]) -> Figures:
        figures: Figures = {}
        rsum = np.zeros(len(weights))
        for name in DIRECTIONS:
            means = self._means[name].of(weights)
            figures |= {f"{name}/{figure}": column for figure, column in means.items()}
            figures[f"{name}/median_rank"] = self._medians[name].of(weights)
            rsum += sum(means[f"recall_at_{k}"] for k in RECALL_AT)
        return figures | {"rsum": rsum}

    def value(self) -> dict[str, float]:
        """Every image once."""
        return {name: float(column[0]) for name, column in self.figures(np.ones((1, self.num_images))).items()}

    def drawn(self, draws: int, seed: tuple[int, ...]) -> Figures:
        blocks = redrawn(self.num_images, self.num_cells, draws, seed)
        return _stacked(self.figures(weights) for weights in blocks)


def _swapped(a: _Sample, b: _Sample, draws: int, seed: tuple[int, ...]) -> Figures:
    """Differences, b - a, between what the runs become when each image is swapped between them by chance."""
    num_images = a.num_images
    both = _Sample(
        {name: _joined(a.directions[name], b.directions[name], num_images) for name in DIRECTIONS}, 2 * num_images
    )
    generator = np.random.default_rng(seed)
    blocks = []
    for size in _block_sizes(draws, both.num_cells):
        swap = generator.integers(2, size=(size, num_images)).astype(np.float64)
        in_b = both.figures(np.hstack([swap, 1 - swap]))
        in_a = both.figures(np.hstack([1 - swap, swap]))
        blocks.append({name: in_b[name] - in_a[name] for name in in_b})
    return _stacked(blocks)


def _joined(a: _Direction, b: _Direction, num_images: int) -> _Direction:
    """The queries of both runs; the images of b are numbered after those of a."""
    values = {name: np.concatenate([a.values[name], b.values[name]]) for name in a.values if name in b.values}
    return _Direction(values, np.concatenate([a.ranks, b.ranks]), np.concatenate([a.image, b.image + num_images]))


def redrawn(num_images: int, num_cells: int, draws: int, seed: tuple[int, ...]) -> Iterator[Float[np.ndarray, "B N"]]:
    """How often each image is drawn, a block of draws at a time; the draws do not depend on the blocks."""
    generator = np.random.default_rng(seed)
    for size in _block_sizes(draws, num_cells):
        cells = generator.integers(num_images, size=(size, num_images)) + num_images * np.arange(size)[:, None]
        counts = np.bincount(cells.ravel(), minlength=size * num_images)
        yield counts.reshape(size, num_images).astype(np.float64)


def _block_sizes(draws: int, num_cells: int) -> Iterator[int]:
    block = max(1, _CELLS // num_cells)
    for start in range(0, draws, block):
        yield min(block, draws - start)


def _stacked(blocks: Iterable[Figures]) -> Figures:
    blocks = list(blocks)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval_of_draws(
    value: float, drawn: Float[np.ndarray, " B"], bounds: tuple[float, float] | None, num_images: int
) -> Interval:
    """The interval of a figure of so many images from what it became in each draw; bounds as in `mean_interval`."""
    if bounds is None:
        low, high = np.nanquantile(drawn, _ENDS)
        return Interval(value, float(low), float(high))
    least, most = bounds
    share = (value - least) / (most - least)
    low, high = _wilson(share, float(np.nanstd(drawn)) / (most - least), num_images)
    return Interval(value, least + (most - least) * low, least + (most - least) * high)


def _wilson(share: float, error: float, num_images: int) -> tuple[float, float]:
    """Wilson's interval of a share with this standard error.

    Where no draw differs from another, the images may hold one independent query each and no more.
    """
    size = share * (1 - share) / error**2 if error > _TOLERANCE else num_images
    spread = _Z**2 / size
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    # rounding may step over an end
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def _bounds(name: str) -> tuple[float, float] | None:
    if name == "rsum":
        return 0.0, 100.0 * len(RECALL_AT) * len(DIRECTIONS)
    return None if name.endswith(("median_rank", "mean_rank")) else (0.0, 100.0)


def _p_value(difference: float, swapped: Float[np.ndarray, " B"]) -> float:
    # sums in another order round differently
    as_large = np.abs(swapped) >= abs(difference) * (1 - _TOLERANCE) - _TOLERANCE
    return float((1 + as_large.sum()) / (1 + len(swapped)))


def _check_same_queries(a: Queries, b: Queries) -> None:
    for name, rows in a.directions().items():
        others = b.directions()[name]
        for column in ("query", "image", "image_id"):
            if not np.array_equal(getattr(rows, column), getattr(others, column)):
                raise ValueError(
                    f"{name}: the runs have other queries ({len(rows):,} and {len(others):,}; column {column})"
                )
