"""InfoNCE over the pairs of a batch, in both directions."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ascl_lightning.losses.base import ContrastiveLoss, PairScores
from ascl_lightning.losses.temperature import Temperature

BLOCK_ELEMENTS = 2**22
"""Logits, masks and softmax of this many scores are in memory at a time; those of a large batch would fill it."""


def same_image_mask(
    row_image_ids: Integer[Tensor, " R"], column_image_ids: Integer[Tensor, " C"], targets: Integer[Tensor, " R"]
) -> Bool[Tensor, "R C"]:
    """Columns that share a row's image but are not its positive (docs/method.md#texts-of-the-same-image).

    Args:
        row_image_ids: Image of each row, (R,).
        column_image_ids: Image of each column, (C,).
        targets: Column of each row's positive, (R,).

    Returns:
        True for entries to exclude from the denominator, (R, C).
    """
    same = row_image_ids[:, None] == column_image_ids[None, :]
    return same.scatter(1, targets[:, None], False)


def both_directions(scores: PairScores) -> tuple["Direction", "Direction"]:
    """Images as rows, and texts as rows."""
    similarity, text_similarity = at_least_float32(scores.similarity), scores.text_similarity
    ids, targets = scores.image_ids, scores.targets
    if targets is None or text_similarity is None:
        targets, text_similarity = torch.arange(len(similarity), device=similarity.device), similarity.T
    masked = None if ids is None else same_image_mask(ids[targets], ids, targets)
    negatives = None if scores.negatives is None else at_least_float32(scores.negatives)
    # the texts stand for their images, so both directions have the same teacher
    teacher = None if scores.text_to_text is None else at_least_float32(scores.text_to_text)
    images = Direction(similarity, targets, masked, negatives, teacher)
    return images, Direction(at_least_float32(text_similarity), targets, masked, teacher=teacher)


@dataclass(frozen=True)
class Direction:
    """Rows of queries and columns of candidates.

    Args:
        similarity: (b, B).
        targets: Column of each row's positive, (b,).
        masked: True for entries to exclude, (b, B); None: none.
        negatives: Similarities with further negatives, (b, Q); None: none.
        teacher: What a teacher scores the same entries, (b, B); None: no teacher.
    """

    similarity: Float[Tensor, "b B"]
    targets: Integer[Tensor, " b"]
    masked: Bool[Tensor, "b B"] | None
    negatives: Float[Tensor, "b Q"] | None = None
    teacher: Float[Tensor, "b B"] | None = None

    @property
    def positives(self) -> Float[Tensor, " b"]:
        """Similarity of each row with its positive."""
        return self.similarity.gather(1, self.targets[:, None])[:, 0]

    def mean(self, terms: Callable[["Direction"], Float[Tensor, " R"]]) -> Float[Tensor, ""]:
        """Mean of the terms of all rows; those of many rows are computed in blocks.

        Args:
            terms: Returns a term for each row of a `Direction` with some of the rows.
        """
        num_rows, num_columns = self.similarity.shape
        size = max(1, BLOCK_ELEMENTS // num_columns)
        if num_rows <= size:
            return terms(self).mean()
        blocks = [self._rows(slice(start, start + size)) for start in range(0, num_rows, size)]
        parts = [checkpoint(terms, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
        return torch.cat(parts).mean()

    def _rows(self, rows: slice) -> "Direction":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: part[rows] for name, part in parts.items() if part is not None})


def info_nce_terms(
    logits: Float[Tensor, "R C"],
    targets: Integer[Tensor, " R"],
    masked: Bool[Tensor, "R C"] | None = None,
    negative_logits: Float[Tensor, "R Q"] | None = None,
) -> Float[Tensor, " R"]:
    """-log softmax of each row's positive among its columns (van den Oord et al. 2018, equation 4).

    Args:
        logits: Similarities divided by the temperature, (R, C).
        targets: Column of each row's positive, (R,).
        masked: True for entries to exclude, (R, C); never a positive.
        negative_logits: Logits of further negatives, (R, Q); -inf for entries to exclude.

    Returns:
        One non-negative term for each row, (R,).
    """
    if masked is not None:
        logits = logits.masked_fill(masked, -torch.inf)
    if negative_logits is not None:
        logits = torch.cat([logits, negative_logits], dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


def at_least_float32(similarity: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Casts half precision to float32, which differences of large logits need; float64 stays."""
    return similarity.to(torch.promote_types(similarity.dtype, torch.float32))


class InfoNCE(ContrastiveLoss):
    """Symmetric InfoNCE as in CLIP: the mean of image-to-text and text-to-image (Radford et al. 2021, figure 3).

    It ignores perturbed texts.

    Args:
        temperature: Divisor of the similarities; its initial value if it is learned.
        learn_temperature: Make the temperature a parameter, kept in [0.01, 1].

    Raises:
        ValueError: If the temperature is not positive, or is learned and starts outside its bounds.

    Example:
        >>> loss = InfoNCE(temperature=1.0, learn_temperature=False)
        >>> loss(PairScores(torch.zeros(4, 4))).exp().round().item()
        4.0
    """

    temperature: Temperature
    uses_negatives: bool = False

    def __init__(self, temperature: float = 0.07, learn_temperature: bool = True) -> None:
        super().__init__(temperature, learn_temperature)

    def forward(self, scores: PairScores) -> Float[Tensor, ""]:
        """(L_i2t + L_t2i) / 2."""
        images, texts = both_directions(scores)
        terms = partial(self._terms, temperature=self.temperature())
        return (images.mean(terms) + texts.mean(terms)) / 2

    def _terms(self, rows: Direction, temperature: Float[Tensor, ""]) -> Float[Tensor, " R"]:
        """The term of each row."""
        return info_nce_terms(rows.similarity / temperature, rows.targets, rows.masked)
