"""Figures made of many means over queries, with intervals from the same draws of images for all of them."""

import numpy as np
from jaxtyping import Float, Integer, Num

from ascl_lightning.metrics.bootstrap import DRAWS, Interval, interval_of_draws
from ascl_lightning.metrics.resampling import redrawn

Drawn = Float[np.ndarray, "B"]
"""A figure as it is, and then of each draw of the images."""


class Redraws:
    """Draws of the images of a gallery, made once.

    Args:
        num_images: How many there are.
        draws: How often they are drawn.
        seed: Of the draws.
    """

    def __init__(self, num_images: int, draws: int = DRAWS, seed: int = 0) -> None:
        once = np.ones((1, num_images))
        self._weights = np.concatenate([once, *redrawn(num_images, num_images, draws, (seed,))])
        self._num_images = num_images

    def means(self, values: Num[np.ndarray, "Q L"], images: Integer[np.ndarray, " Q"]) -> Float[np.ndarray, "B L"]:
        """Means over queries of L values each: as they are, then of each draw; NaN of a draw without a query.

        Args:
            values: Of each query, (Q, L).
            images: Number of each query's image, (Q,).
        """
        columns = [np.bincount(images, weights=column, minlength=self._num_images) for column in values.T]
        totals = self._weights @ np.stack([*columns, np.bincount(images, minlength=self._num_images)], axis=1)
        with np.errstate(invalid="ignore"):
            means: np.ndarray = totals[:, :-1] / totals[:, -1:]
        return means

    def interval(self, figure: Drawn, *, is_share: bool = True) -> Interval:
        """The figure with its interval.

        Args:
            figure: Made of `means` in the same way for all draws.
            is_share: Whether it lies between 0 and 100.
        """
        value = float(figure[0])
        if not is_share:
            return interval_of_draws(value, figure[1:], None, self._num_images)
        # a mean of hundreds may be rounded to more than a hundred
        return interval_of_draws(min(max(value, 0.0), 100.0), figure[1:], (0.0, 100.0), self._num_images)
