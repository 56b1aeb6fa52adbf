"""Recall, median rank and mean rank in both directions, from ranks (`metrics.ranks`)."""

from statistics import fmean

from jaxtyping import Float, Int, Integer
from torch import Tensor

from ascl_lightning.metrics.query_results import DIRECTIONS, RECALL_AT
from ascl_lightning.metrics.ranks import ScoreBlock, checked_ids, ranks_from_similarity, streamed_ranks


def retrieval_metrics(similarity: Float[Tensor, "N M"], text_image_ids: Integer[Tensor, " M"]) -> dict[str, float]:
    """Recall at 1, 5 and 10, median rank and mean rank of both directions, and the sum of the recalls.

    Args:
        similarity: Score of every image with every text, higher is better, (N, M).
        text_image_ids: Row of each text's image, in any order, (M,). An image may have any number of texts; without
            texts, it is not a query but stays in the gallery.

    Returns:
        `{image_to_text,text_to_image}/{recall_at_1,recall_at_5,recall_at_10,median_rank,mean_rank}`, recalls in
        percent, and `rsum`, the sum of the six recalls.

    Raises:
        ValueError: If there is no text, or an id is not a row of `similarity`.

    Example:
        >>> import torch
        >>> metrics = retrieval_metrics(torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3]]), torch.tensor([0, 1, 1]))
        >>> metrics["image_to_text/recall_at_1"], round(metrics["text_to_image/recall_at_1"], 1)
        (100.0, 66.7)
    """
    return metrics_from_ranks(*ranks_from_similarity(similarity, text_image_ids))


def metrics_from_ranks(
    image_to_text_ranks: Integer[Tensor, " N"], text_to_image_ranks: Integer[Tensor, " M"]
) -> dict[str, float]:
    """Summarises ranks, which start at 1.

    Args:
        image_to_text_ranks: Rank of each image's best text, (N,); 0 if the image is not a query.
        text_to_image_ranks: Rank of each text's image, (M,).

    Returns:
        The dict of `retrieval_metrics`. The median is floor(median of 0-based ranks) + 1, as in published code.

    Raises:
        ValueError: If a direction has no query.

    Example:
        >>> import torch
        >>> metrics_from_ranks(torch.tensor([1, 4]), torch.tensor([2, 2, 1]))["image_to_text/median_rank"]
        2.0
    """
    metrics: dict[str, float] = {}
    rsum = 0.0
    for direction, ranks in zip(DIRECTIONS, (image_to_text_ranks, text_to_image_ranks), strict=True):
        ranks = ranks[ranks > 0].cpu().double()
        if len(ranks) == 0:
            raise ValueError(f"{direction}: there is no query to measure")
        for k in RECALL_AT:
            recall = (ranks <= k).double().mean().item() * 100
            metrics[f"{direction}/recall_at_{k}"] = recall
            rsum += recall
        # not `median`, which takes the lower of two middle values
        metrics[f"{direction}/median_rank"] = ((ranks - 1).quantile(0.5).floor() + 1).item()
        metrics[f"{direction}/mean_rank"] = ranks.mean().item()
    return metrics | {"rsum": rsum}


def fold_metrics(
    score_block: ScoreBlock,
    num_images: int,
    text_image_ids: Integer[Tensor, " M"],
    fold_size: int,
    *,
    image_block: int = 256,
    text_block: int = 1024,
) -> dict[str, float]:
    """Mean of the metrics over consecutive folds of images with their own texts (COCO 1K: 5 folds of 1,000).

    Args:
        score_block: Returns the scores of a tile, as in `streamed_ranks`.
        num_images: N.
        text_image_ids: Image of each text, (M,).
        fold_size: Images per fold; images after the last whole fold are not used.
        image_block: Most images in a tile.
        text_block: Most texts in a tile.

    Returns:
        The dict of `retrieval_metrics`.

    Raises:
        ValueError: If there is no whole fold, a fold has no text, or an id is not in 0..N-1.
    """
    if not 0 < fold_size <= num_images:
        raise ValueError(f"{num_images} images contain no fold of {fold_size}")
    text_image_ids = checked_ids(text_image_ids, num_images)
    folds = []
    for start in range(0, num_images - fold_size + 1, fold_size):
        members = ((text_image_ids >= start) & (text_image_ids < start + fold_size)).nonzero().squeeze(1)
        ranks = streamed_ranks(
            _shifted(score_block, start, members),
            fold_size,
            text_image_ids[members] - start,
            image_block=image_block,
            text_block=text_block,
        )
        folds.append(metrics_from_ranks(*ranks))
    return {name: fmean(fold[name] for fold in folds) for name in folds[0]}


def _shifted(score_block: ScoreBlock, first_image: int, members: Int[Tensor, " m"]) -> ScoreBlock:
    """Scores of a fold whose images start at `first_image` and whose texts are `members`."""
    return lambda images, texts: score_block(images + first_image, members[texts])
