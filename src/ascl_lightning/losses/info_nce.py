"""Contrastive loss over the pairs of a batch, in both directions."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

from ascl_lightning.losses.base import ContrastiveLoss


def same_image_mask(
    row_image_ids: Integer[Tensor, " R"], column_image_ids: Integer[Tensor, " C"], targets: Integer[Tensor, " R"]
) -> Bool[Tensor, "R C"]:
    """Columns that are about the row's image without being its positive: no negatives (METHOD section 4).

    Args:
        row_image_ids: Image that each row shows or tells about, (R,).
        column_image_ids: The same for the columns, (C,).
        targets: Column of each row's positive, (R,).

    Returns:
        True where a denominator must leave the entry out, (R, C).
    """
    same = row_image_ids[:, None] == column_image_ids[None, :]
    return same.scatter(1, targets[:, None], False)


def batch_masks(
    image_ids: Integer[Tensor, " B"] | None,
    text_image_ids: Integer[Tensor, " B"] | None,
    targets: Integer[Tensor, " B"],
) -> tuple[Bool[Tensor, "B B"] | None, Bool[Tensor, "B B"] | None]:
    """Same-image masks of a batch of pairs, for rows of images and for rows of texts.

    Args:
        image_ids: Image of each row, (B,); None: the same as `text_image_ids`.
        text_image_ids: Image of each text, (B,); None: the same as `image_ids`.
        targets: Row number of each pair, (B,).

    Returns:
        Images by texts and texts by images, each (B, B); None twice where nothing is known of the ids.
    """
    image_ids = text_image_ids if image_ids is None else image_ids
    text_image_ids = image_ids if text_image_ids is None else text_image_ids
    if image_ids is None or text_image_ids is None:
        return None, None
    return same_image_mask(image_ids, text_image_ids, targets), same_image_mask(text_image_ids, image_ids, targets)


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
        similarity: Float[Tensor, "B B"],
        negative_similarity: Float[Tensor, "B Q"] | None = None,
        image_ids: Integer[Tensor, " B"] | None = None,
        text_image_ids: Integer[Tensor, " B"] | None = None,
        *,
        negative_valid: Bool[Tensor, " Q"] | None = None,
    ) -> Float[Tensor, ""]:
        """(L_i2t + L_t2i) / 2; `negative_similarity` and `negative_valid` are not used. See `ContrastiveLoss`."""
        logits = at_least_float32(similarity) / self.temperature()
        targets = torch.arange(len(logits), device=logits.device)
        image_rows, text_rows = batch_masks(image_ids, text_image_ids, targets)
        image_to_text = info_nce_terms(logits, targets, image_rows).mean()
        text_to_image = info_nce_terms(logits.T, targets, text_rows).mean()
        return (image_to_text + text_to_image) / 2
