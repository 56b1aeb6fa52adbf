"""The encoded images and texts of a split, scored in tiles or as full matrices."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import product
from typing import NamedTuple

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ascl_lightning.data.batch import Features

Score = Callable[[Features, Features], Tensor]
"""Scores n projected images with m projected texts on the same device, (n, m)."""

_IMAGE_BLOCK, _TEXT_BLOCK = 256, 1024
_IMAGES_OF_PAIRS = 8
"""Images of a block of `pair_scores`: enough to use the processor, few enough to score few other pairs."""


class Level(NamedTuple):
    """One term of a fused score, which is a weighted sum."""

    weight: float
    score: Score


class Gallery:
    """Distinct images and texts, scored by number.

    Args:
        images: The images.
        texts: The texts.
        image_of_text: Number of each text's image, (M,).
        score: The score that the model ranks by.
        levels: Terms of that score by name; empty if it is not a sum. `independent` names the dot product of the
            independent embeddings.
    """

    def __init__(
        self,
        images: "Items",
        texts: "Items",
        image_of_text: Int[Tensor, " M"],
        score: Score,
        levels: Mapping[str, Level],
    ) -> None:
        self.images = images
        self.texts = texts
        self.image_of_text = image_of_text
        self._score = score
        self._levels = levels
        self._matrices: dict[str, Tensor] = {}
        self.scoring_seconds = 0.0
        """Duration of `matrices`."""

    @property
    def level_weights(self) -> dict[str, float]:
        """Weights of the levels whose sum is the score; empty if it has one level."""
        return {name: level.weight for name, level in self._levels.items() if level.weight < 1}

    def with_texts(self, texts: "Items", image_of_text: Int[Tensor, " M"]) -> "Gallery":
        """A gallery of the same images with other texts."""
        return Gallery(self.images, texts, image_of_text, self._score, self._levels)

    def score(self, image_numbers: Int[Tensor, " n"], text_numbers: Int[Tensor, " m"]) -> Float[Tensor, "n m"]:
        """Scores of some images with some texts, (n, m); looked up if `matrices` was called before."""
        if not self._matrices:
            return self.compute(image_numbers, text_numbers)
        rows = self._matrices["fused"][image_numbers.cpu()]
        return rows[:, text_numbers.cpu()].to(image_numbers.device)

    def compute(self, image_numbers: Int[Tensor, " n"], text_numbers: Int[Tensor, " m"]) -> Float[Tensor, "n m"]:
        """Computes the scores, also after `matrices`; for timing a search."""
        return self._score(self.images.select(image_numbers), self.texts.select(text_numbers))

    def matrices(self) -> dict[str, Float[Tensor, "N M"]]:
        """Scores of all images with all texts; computed once, in memory or, if memory is short, in a file.

        Returns:
            `fused`, the score that the model ranks by; its levels, if it has more than one; and `independent`, the dot
            product of the independent embeddings, unless that is the fused score.
        """
        if not self._matrices:
            start = time.perf_counter()
            others = {name: self._tiled(score) for name, score in self._scorers().items()}
            levels = {name: others[name] for name in self.level_weights}
            fused = self._weighted_sum(levels) if levels else self._tiled(self.compute)
            self._matrices = {"fused": fused, **others}
            self.scoring_seconds = time.perf_counter() - start
        return self._matrices

    @torch.no_grad()
    def pair_scores(
        self, image_numbers: Int[Tensor, " P"], text_numbers: Int[Tensor, " P"]
    ) -> dict[str, Float[Tensor, " P"]]:
        """Scores of single pairs, by every score of `matrices` and without computing those.

        Args:
            image_numbers: Image of each pair, (P,).
            text_numbers: Text of each pair, (P,).
        """
        scorers, weights = self._scorers(), self.level_weights
        if not weights:
            scorers = {"fused": self.compute, **scorers}
        images, place = image_numbers.unique(return_inverse=True)
        dtype = torch.promote_types(torch.float32, self.images.embeds.dtype)
        scores = {name: torch.empty(len(place), dtype=dtype, device=images.device) for name in scorers}
        with torch.autocast(images.device.type, enabled=False):
            for start in range(0, len(images), _IMAGES_OF_PAIRS):
                pairs = ((place >= start) & (place < start + _IMAGES_OF_PAIRS)).nonzero()[:, 0]
                texts, column = text_numbers[pairs].unique(return_inverse=True)
                for name, score in scorers.items():
                    block = score(images[start : start + _IMAGES_OF_PAIRS], texts)
                    scores[name][pairs] = block[place[pairs] - start, column].to(dtype)
        if weights:
            fused = torch.stack([weight * scores[name] for name, weight in weights.items()]).sum(0)
            scores = {"fused": fused, **scores}
        return scores

    def _scorers(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Scores of a block for each level, and for `independent`, unless that is the fused score."""
        levels = {name: self._scorer(self._levels[name].score) for name in self.level_weights}
        if "independent" not in self._levels or "independent" in levels:
            levels["independent"] = self._independent
        return levels

    def _scorer(self, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda images, texts: score(self.images.select(images), self.texts.select(texts))

    def _independent(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.images.embeds[images] @ self.texts.embeds[texts].T

    def _weighted_sum(self, levels: dict[str, Tensor]) -> Tensor:
        total = _allocated(next(iter(levels.values())))
        for start in range(0, len(total), _IMAGE_BLOCK):
            rows = slice(start, start + _IMAGE_BLOCK)
            parts = [self._levels[name].weight * matrix[rows] for name, matrix in levels.items()]
            total[rows] = torch.stack(parts).sum(0)
        return total

    @torch.no_grad()
    def _tiled(self, score_block: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "N M"]:
        device = self.image_of_text.device
        images = torch.arange(len(self.images.ids), device=device).split(_IMAGE_BLOCK)
        texts = torch.arange(len(self.texts.ids), device=device).split(_TEXT_BLOCK)
        matrix: Tensor | None = None
        # never in half precision, which would make ties of close scores
        with torch.autocast(device.type, enabled=False):
            for rows, columns in product(images, texts):
                scores = score_block(rows, columns)
                if matrix is None:
                    matrix = _allocated(scores, (len(self.images.ids), len(self.texts.ids)))
                matrix[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = scores.cpu()
        if matrix is None:
            raise ValueError("there is no text to rank")
        return matrix


def _allocated(like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """An uninitialised matrix; in an unlinked temporary file if it needs more than a quarter of the free memory."""
    shape = tuple(like.shape) if shape is None else shape
    size = math.prod(shape) * like.element_size()
    if size <= psutil.virtual_memory().available // 4:
        return torch.empty(shape, dtype=like.dtype)
    with tempfile.NamedTemporaryFile(prefix="ascl-scores-") as file:
        file.truncate(size)
        # the mapping remains valid after the file is unlinked
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)


class Items:
    """Distinct images or texts, numbered in the order of their ids.

    Args:
        ids: Ids, possibly repeated, (R,).
        pooled: Global vectors, (R, P).
        lengths: Number of tokens of each item, (R,).
        embeds: Independent embeddings, (R, D).
        tokens: Valid tokens of all items, concatenated, in any number of parts, (sum of lengths, T).
        device: Device of the selected items; the arguments may be on another device.
    """

    def __init__(
        self,
        ids: Int[Tensor, " R"],
        pooled: Float[Tensor, "R P"],
        lengths: Int[Tensor, " R"],
        embeds: Float[Tensor, "R D"],
        tokens: list[Tensor],
        device: torch.device,
    ) -> None:
        sorted_ids, order = ids.to(device).sort(stable=True)
        is_first = torch.ones_like(sorted_ids, dtype=torch.bool)
        is_first[1:] = sorted_ids[1:] != sorted_ids[:-1]
        self.rows = order[is_first]
        self.ids = sorted_ids[is_first]
        self.embeds = embeds.to(device)[self.rows]
        self._pooled = pooled
        self._tokens = torch.cat([*tokens, tokens[0].new_zeros(1, tokens[0].shape[1])])
        self._lengths = lengths
        self._starts = lengths.cumsum(0) - lengths
        self._device = device

    def select(self, numbers: Int[Tensor, " n"]) -> Features:
        """The items of these numbers, with tokens padded to the longest."""
        rows = self.rows[numbers].to(self._tokens.device)
        lengths, starts = self._lengths[rows], self._starts[rows]
        positions = torch.arange(int(lengths.max()), device=rows.device)
        mask = positions < lengths[:, None]
        # padding gathers the last row, which is zero
        sources = torch.where(mask, starts[:, None] + positions, len(self._tokens) - 1)
        tokens = self._tokens.index_select(0, sources.flatten()).unflatten(0, mask.shape)
        return Features(self._pooled[rows].to(self._device), tokens.to(self._device), mask.to(self._device))
