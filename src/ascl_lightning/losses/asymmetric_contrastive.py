"""The loss of AsCL: InfoNCE with perturbed texts as additional negatives of the images."""

from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.losses.base import ContrastiveLoss, PairScores
from ascl_lightning.losses.info_nce import Direction, both_directions, info_nce_terms
from ascl_lightning.losses.temperature import Temperature

Guard = Literal["zero", "remove", "off"]


def guarded_negative_logits(
    negative_similarity: Float[Tensor, "R Q"],
    positive_similarity: Float[Tensor, " R"],
    temperature: Float[Tensor, ""],
    guard: Guard,
    valid: Bool[Tensor, " Q"] | None = None,
) -> Float[Tensor, "R Q"]:
    """Logits of images with perturbed texts, after the false-negative guard (docs/method.md#false-negative-guard).

    Args:
        negative_similarity: Similarities of images with T-, (R, Q).
        positive_similarity: Similarity of each image with its own text, (R,). A T- that scores higher is treated as a
            false negative.
        temperature: Divisor of the similarities.
        guard: What happens to the similarity of a false negative: "zero" sets it to 0, "remove" removes it, "off"
            keeps it.
        valid: False for a T- that is ignored, (Q,).

    Returns:
        Logits, (R, Q); -inf for removed terms. Guarded entries get no gradient.
    """
    false_negative = negative_similarity > positive_similarity[:, None]
    removed = torch.zeros_like(false_negative) if valid is None else ~valid.expand_as(false_negative)
    if guard == "remove":
        removed = removed | false_negative
    # removed terms are 0 during the division: (-inf or NaN) / tau would make the gradient of tau NaN
    constant = removed | false_negative if guard == "zero" else removed
    logits = negative_similarity.masked_fill(constant, 0.0) / temperature
    return logits.masked_fill(removed, -torch.inf)


class AsymmetricContrastiveLoss(ContrastiveLoss):
    """L_i2t + L_t2i of AsCL (Gong, Mai, Huang, ICME 2024; docs/method.md#loss).

    The softmax over texts includes every text of the batch and every perturbed text T-; the softmax over images
    includes every image. A T- that scores above the image's own text may describe the image better, so a guard
    replaces or removes its term.

    Args:
        temperature: Divisor of the similarities; its initial value if it is learned.
        learn_temperature: Make the temperature a parameter, kept in [0.01, 1].
        guard: "zero" sets the similarity of a false negative to 0, as published; it still adds exp(0) to the
            denominator. "remove" removes its term. "off" keeps it.

    Raises:
        ValueError: If the temperature is not positive, is learned and starts outside its bounds, or the guard is
            unknown.

    Example:
        >>> loss = AsymmetricContrastiveLoss(temperature=1.0)
        >>> scores = PairScores(torch.zeros(2, 2), negatives=torch.zeros(2, 2))
        >>> loss(scores).exp().round().item()  # (2 + 2) texts, 2 images
        8.0
    """

    temperature: Temperature
    uses_negatives: bool = True

    def __init__(self, temperature: float = 0.1, learn_temperature: bool = False, guard: Guard = "zero") -> None:
        super().__init__(temperature, learn_temperature)
        if guard not in get_args(Guard):
            raise ValueError(f"guard must be one of {', '.join(get_args(Guard))}, not {guard!r}")
        self.guard: Guard = guard

    def forward(self, scores: PairScores) -> Float[Tensor, ""]:
        """L_i2t + L_t2i."""
        images, texts = both_directions(scores)
        terms = partial(self._terms, temperature=self.temperature(), valid=scores.negative_valid)
        return images.mean(terms) + texts.mean(terms)

    def _terms(
        self, rows: Direction, temperature: Float[Tensor, ""], valid: Bool[Tensor, " Q"] | None
    ) -> Float[Tensor, " R"]:
        negatives = rows.negatives
        if negatives is not None:
            negatives = guarded_negative_logits(negatives, rows.positives, temperature, self.guard, valid)
        return info_nce_terms(rows.similarity / temperature, rows.targets, rows.masked, negatives)
