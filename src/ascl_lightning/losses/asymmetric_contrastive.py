"""The loss of AsCL: texts with a wrong detail join the negatives of the images."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from ascl_lightning.losses.base import ContrastiveLoss
from ascl_lightning.losses.info_nce import at_least_float32, both_directions

Guard = Literal["zero", "remove", "off"]


def guarded_negative_logits(
    negative_similarity: Float[Tensor, "R Q"],
    positive_similarity: Float[Tensor, " R"],
    temperature: Float[Tensor, ""],
    guard: Guard,
    valid: Bool[Tensor, " Q"] | None = None,
) -> Float[Tensor, "R Q"]:
    """Logits of images with perturbed texts, behind the guard (docs/method.md#false-negative-guard).

    Args:
        negative_similarity: Images by T-, (R, Q).
        positive_similarity: Each image with its own text, (R,); above it, a T- is taken for a false negative.
        temperature: What similarities are divided by.
        guard: What becomes of a false negative: the constant 0 before the division, absent, or left as it is.
        valid: False for a T- that counts for nothing, (Q,).

    Returns:
        Logits, -inf where a term is absent; no gradient passes where the guard acted, (R, Q).
    """
    false_negative = negative_similarity > positive_similarity[:, None]
    absent = torch.zeros_like(false_negative) if valid is None else ~valid.expand_as(false_negative)
    if guard == "remove":
        absent = absent | false_negative
    # absent terms are 0 too until they are divided: (-inf or NaN) / tau would make the gradient of tau NaN
    constant = absent | false_negative if guard == "zero" else absent
    logits = negative_similarity.masked_fill(constant, 0.0) / temperature
    return logits.masked_fill(absent, -torch.inf)


class AsymmetricContrastiveLoss(ContrastiveLoss):
    """L_i2t + L_t2i of AsCL (Gong, Mai, Huang, ICME 2024; docs/method.md#loss).

    An image's denominator holds every text of the batch and every perturbed text T-; a text's denominator holds every
    image. A T- that scores above the image's own text may be a better description, so a guard takes it back.

    Args:
        temperature: What similarities are divided by, at the start if it is learned.
        learn_temperature: Whether the temperature is a parameter, kept in [0.01, 1].
        guard: "zero" replaces the similarity of a false negative by the constant 0, as published; 0 still weighs
            exp(0) in the denominator. "remove" leaves the term out. "off" keeps it.

    Raises:
        ValueError: If the temperature is not positive, is learned and outside its bounds, or the guard is unknown.

    Example:
        >>> loss = AsymmetricContrastiveLoss(temperature=1.0)
        >>> loss(torch.zeros(2, 2), torch.zeros(2, 2)).exp().round().item()  # (2 + 2) texts, 2 images
        8.0
    """

    uses_negatives: bool = True

    def __init__(self, temperature: float = 0.1, learn_temperature: bool = False, guard: Guard = "zero") -> None:
        super().__init__(temperature, learn_temperature)
        if guard not in get_args(Guard):
            raise ValueError(f"guard must be one of {', '.join(get_args(Guard))}, not {guard!r}")
        self.guard: Guard = guard

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
        """L_i2t + L_t2i; see `ContrastiveLoss`."""
        temperature = self.temperature()
        images, texts = both_directions(similarity, text_similarity, image_ids, targets)
        if negative_similarity is None:
            return images.loss(temperature) + texts.loss(temperature)
        negatives, positives = at_least_float32(negative_similarity), images.positives

        def negative_logits(rows: slice) -> Tensor:
            return guarded_negative_logits(negatives[rows], positives[rows], temperature, self.guard, negative_valid)

        return images.loss(temperature, negative_logits) + texts.loss(temperature)
