"""How often a text is preferred to wrong ones of the same image, and to a blind picture (a text-only control)."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

CONTROL = (
    "How often the text encoder prefers the caption without the picture: by the independent embeddings and a blind "
    "picture, the mean of all other images of the split. Tests that it solves do not test vision."
)
"""Definition of the text-only control."""
TIE = 1e-5
"""Scores with a difference up to this are equal: the rounding error of a cosine in single precision."""
_PAIRS_AT_ONCE = 4096


def choice_results(scores: Float[np.ndarray, "I T"]) -> dict[str, bool]:
    """Which parts of a test a scorer solves; ties count as failures, so equal scores solve none.

    Args:
        scores: Scores of each image with each text, (I, T). Text i, for i < I, describes image i; all other pairs are
            wrong.

    Returns:
        With one image, `accuracy`: its caption scores highest. With more (Winoground, Thrush et al., CVPR 2022,
        section 3.2), `text`: the caption of every image scores highest with it; `image`: the image of every caption
        scores highest with it; `group`: both.

    Example:
        >>> choice_results(np.array([[0.5, 0.25], [0.375, 0.5]]))
        {'text': True, 'image': True, 'group': True}
        >>> choice_results(np.array([[0.5, 0.5, 0.25]]))
        {'accuracy': False}
    """
    num_images = len(scores)
    own = np.arange(num_images)
    margins = scores[own, own, None] - scores
    margins[own, own] = np.inf
    text = bool((margins > TIE).all())
    if num_images == 1:
        return {"accuracy": text}
    margins = scores[own, own] - scores[:, :num_images]
    margins[own, own] = np.inf
    image = bool((margins > TIE).all())
    return {"text": text, "image": image, "group": text and image}


def blind_scores(
    image_embeds: Float[Tensor, "N D"], left_out: Int[Tensor, "P I"], text_embeds: Float[Tensor, "P D"]
) -> Float[Tensor, " P"]:
    """Score of each text with a blind picture: the mean of all images but some.

    The dot product of embeddings is linear in the image, so this is, up to a factor, the text's mean score over other
    images: what its score owes to no picture. The text's own images are left out, so that they cannot give it away.

    Args:
        image_embeds: L2-normalised embeddings of all images, (N, D).
        left_out: Rows of the distinct images that each text is compared with, (P, I).
        text_embeds: L2-normalised embedding of each text, (P, D).

    Returns:
        Cosines, (P,).

    Raises:
        ValueError: If no other image is left.
    """
    if len(image_embeds) <= left_out.shape[1]:
        raise ValueError(f"a mean without {left_out.shape[1]} of {len(image_embeds)} images")
    total = image_embeds.double().sum(0)
    blocks = []
    for rows, texts in zip(left_out.split(_PAIRS_AT_ONCE), text_embeds.split(_PAIRS_AT_ONCE), strict=True):
        others = F.normalize(total - image_embeds[rows].double().sum(1), dim=-1)
        blocks.append((others * texts).sum(-1))
    return torch.cat(blocks) if blocks else total.new_zeros(0)


def is_preferred(
    caption_scores: Float[np.ndarray, " Q"], wrong_scores: Float[np.ndarray, " Q"]
) -> Bool[np.ndarray, " Q"]:
    """Whether each caption scores higher than its wrong text; a tie is a failure."""
    preferred: Bool[np.ndarray, " Q"] = caption_scores - wrong_scores > TIE
    return preferred
