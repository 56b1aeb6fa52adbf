"""Whether a model's embeddings and scores know which texts belong to which images."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.data.batch import ImageTextBatch, map_tensors
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.training.module import RetrievalModule

KINDS = ("image embeddings", "text embeddings", "scores")
_MOST_IMAGES = 16


@dataclass(frozen=True)
class Permuted:
    """What became of some images and texts when each text was handed in as another image's.

    Args:
        changes: Of `KINDS`, their largest change over their largest value; 0 where rounding explains it.
        scores: Of the images with the texts, as they belong together.
    """

    changes: tuple[float, float, float]
    scores: Float[Tensor, "N M"]


def permute_pairs(module: RetrievalModule, batch: ImageTextBatch) -> Permuted | None:
    """Encodes and scores some images of a batch with their texts, and again with every text at another image's place.

    If embeddings take their context from the true partner, as in the published evaluation, the results change
    (docs/method.md#a-score-depends-on-its-pair-alone). If each score depends on its two items alone, they do not.

    Args:
        module: Ready to evaluate.
        batch: Images with all their texts, as an evaluation has them: in the order of their ids.

    Returns:
        None where fewer than two images have texts.
    """
    batch = _first_images(batch)
    counts = torch.bincount(batch.text_image_ids - batch.image_ids.min(), minlength=1)
    if (counts > 0).sum() < 2:
        return None
    # further than any image's texts reach; only what they say moves, and not what says whose they are
    moved = (torch.arange(len(batch.text_ids), device=batch.text_ids.device) + counts.max()) % len(batch.text_ids)
    plain = _gallery(module, batch)
    permuted = _gallery(module, replace(batch, texts=map_tensors(batch.texts, lambda values: values[moved])))
    matrices, others = plain.matrices(), permuted.matrices()
    changes = (
        _change(plain.images.embeds, permuted.images.embeds),
        _change(plain.texts.embeds[moved], permuted.texts.embeds),
        max(_change(matrix[:, moved.cpu()], others[name]) for name, matrix in matrices.items()),
    )
    # vectors of a tower may be of half the precision of what is made of them
    vectors = plain.images.select(plain.image_of_text[:1]).pooled
    rounding = torch.finfo(vectors.dtype).eps ** 0.5
    return Permuted(tuple(change * (change > rounding) for change in changes), matrices["fused"])


def _first_images(batch: ImageTextBatch) -> ImageTextBatch:
    """A few of the images, with their texts."""
    image_ids = batch.image_ids[:_MOST_IMAGES]
    rows = torch.isin(batch.text_image_ids, image_ids).nonzero()[:, 0]
    return ImageTextBatch(
        map_tensors(batch.images, lambda values: values[:_MOST_IMAGES]),
        image_ids,
        map_tensors(batch.texts, lambda values: values[rows]),
        batch.text_ids[rows],
        batch.text_image_ids[rows],
    )


def _gallery(module: RetrievalModule, batch: ImageTextBatch) -> Gallery:
    """As an evaluation would have it of this batch alone."""
    metric = module.evaluation.alone()
    module.collect(batch, metric)
    return metric.gallery()


def _change(plain: Tensor, permuted: Tensor) -> float:
    difference = torch.where(plain.isnan() & permuted.isnan(), 0.0, (plain - permuted).abs()).nan_to_num(torch.inf)
    largest = plain.nan_to_num(0.0).abs().max().clamp_min(torch.finfo(plain.dtype).tiny)
    return float(difference.max() / largest)
