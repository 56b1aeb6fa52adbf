"""Contrastive loss over the pairs of a batch, in both directions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ascl_lightning.losses.base import ContrastiveLoss

BLOCK_ELEMENTS = 2**22
"""Scores whose logits, masks and softmax are in memory at a time: of all of a large batch they would be its most."""


def same_image_mask(
    row_image_ids: Integer[Tensor, " R"], column_image_ids: Integer[Tensor, " C"], targets: Integer[Tensor, " R"]
) -> Bool[Tensor, "R C"]:
    """Columns of the row's image other than its positive: no negatives (docs/method.md#texts-of-the-same-image).

    Args:
        row_image_ids: Image that each row shows or tells about, (R,).
        column_image_ids: The same for the columns, (C,).
        targets: Column of each row's positive, (R,).

    Returns:
        True where a denominator must leave the entry out, (R, C).
    """
    same = row_image_ids[:, None] == column_image_ids[None, :]
    return same.scatter(1, targets[:, None], False)


def both_directions(
    similarity: Float[Tensor, "b B"],
    text_similarity: Float[Tensor, "b B"] | None,
    image_ids: Integer[Tensor, " B"] | None,
    targets: Integer[Tensor, " b"] | None,
) -> tuple["Direction", "Direction"]:
    """Images as rows and texts as rows of a batch of pairs; arguments as in `ContrastiveLoss`.

    Raises:
        ValueError: If scores of one process's rows come without what a square matrix tells by itself.
    """
    similarity = at_least_float32(similarity)
    if targets is None or text_similarity is None:
        if similarity.shape[0] != similarity.shape[1]:
            raise ValueError("rows of a part of the batch need targets and text_similarity")
        targets, text_similarity = torch.arange(len(similarity), device=similarity.device), similarity.T
    masked = None if image_ids is None else same_image_mask(image_ids[targets], image_ids, targets)
    return Direction(similarity, targets, masked), Direction(at_least_float32(text_similarity), targets, masked)


@dataclass(frozen=True)
class Direction:
    """Rows that look for their positives among columns."""

    similarity: Float[Tensor, "b B"]
    targets: Integer[Tensor, " b"]
    masked: Bool[Tensor, "b B"] | None

    @property
    def positives(self) -> Float[Tensor, " b"]:
        """Similarity of each row with its positive."""
        return self.similarity.gather(1, self.targets[:, None])[:, 0]

    def loss(
        self, temperature: Float[Tensor, ""], negative_logits: Callable[[slice], Tensor] | None = None
    ) -> Float[Tensor, ""]:
        """The mean over the rows of `info_nce_terms`; of many rows, a block at a time is in memory.

        Args:
            temperature: What similarities are divided by.
            negative_logits: Gives those of some rows, as `info_nce_terms` takes them.
        """
        num_rows, num_columns = self.similarity.shape
        size = max(1, BLOCK_ELEMENTS // num_columns)
        if num_rows <= size:
            return self._terms(temperature, negative_logits, slice(num_rows)).mean()
        blocks = [slice(start, start + size) for start in range(0, num_rows, size)]
        terms = [
            checkpoint(self._terms, temperature, negative_logits, rows, use_reentrant=False, preserve_rng_state=False)
            for rows in blocks
        ]
        return torch.cat(terms).mean()

    def _terms(self, temperature: Tensor, negative_logits: Callable[[slice], Tensor] | None, rows: slice) -> Tensor:
        masked = None if self.masked is None else self.masked[rows]
        negatives = None if negative_logits is None else negative_logits(rows)
        return info_nce_terms(self.similarity[rows] / temperature, self.targets[rows], masked, negatives)


def info_nce_terms(
    logits: Float[Tensor, "R C"],
    targets: Integer[Tensor, " R"],
    masked: Bool[Tensor, "R C"] | None = None,
    negative_logits: Float[Tensor, "R Q"] | None = None,
) -> Float[Tensor, " R"]:
    """-log softmax of each row's positive among its columns (van den Oord et al. 2018, equation 4).

    Args:
        logits: Similarities over the temperature, (R, C). Rows may be a part of what the columns hold.
        targets: Column of each row's positive, (R,).
        masked: True where an entry counts for nothing, (R, C); never the positive.
        negative_logits: Columns that are nobody's positive, (R, Q); -inf where an entry counts for nothing.

    Returns:
        One non-negative term for each row, (R,).
    """
    if masked is not None:
        logits = logits.masked_fill(masked, -torch.inf)
    if negative_logits is not None:
        logits = torch.cat([logits, negative_logits], dim=1)
    return F.cross_entropy(logits, targets, reduction="none")


def at_least_float32(similarity: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half precision becomes float32, float64 stays: differences of large logits need the digits."""
    return similarity.to(torch.promote_types(similarity.dtype, torch.float32))


class InfoNCE(ContrastiveLoss):
    """Symmetric InfoNCE as in CLIP: the mean of image-to-text and text-to-image (Radford et al. 2021, figure 3).

    Called like every loss of this package, so that a configuration can exchange one for the other; it makes no use of
    perturbed texts.

    Args:
        temperature: What similarities are divided by, at the start if it is learned.
        learn_temperature: Whether the temperature is a parameter, kept in [0.01, 1].

    Raises:
        ValueError: If the temperature is not positive, or is learned and outside its bounds.

    Example:
        >>> InfoNCE(temperature=1.0, learn_temperature=False)(torch.zeros(4, 4)).exp().round().item()
        4.0
    """

    uses_negatives: bool = False

    def __init__(self, temperature: float = 0.07, learn_temperature: bool = True) -> None:
        super().__init__(temperature, learn_temperature)

    def forward(
        self,
        similarity: Float[Tensor, "b B"],
        negative_similarity: Float[Tensor, "b Q"] | None = None,
        image_ids: Integer[Tensor, " B"] | None = None,
        *,
        negative_valid: Bool[Tensor, " Q"] | None = None,
        text_similarity: Float[Tensor, "b B"] | None = None,
        targets: Integer[Tensor, " b"] | None = None,
    ) -> Float[Tensor, ""]:
        """(L_i2t + L_t2i) / 2; `negative_similarity` and `negative_valid` are not used. See `ContrastiveLoss`."""
        temperature = self.temperature()
        images, texts = both_directions(similarity, text_similarity, image_ids, targets)
        return (images.loss(temperature) + texts.loss(temperature)) / 2
