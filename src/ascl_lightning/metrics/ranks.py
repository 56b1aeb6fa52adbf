"""Ranks of true items among all candidates, from a score matrix, from tiles of one, or from blocks of queries.

Ranks start at 1. Every competitor that does not score strictly below the true item ranks before it, so ties and NaN
count against the model. The rank of a query is that of its best true item; other true items do not compete.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

ScoreBlock = Callable[[Tensor, Tensor], Tensor]
"""Scores the images and texts with given numbers, (n,) and (m,): returns (n, m)."""
_QUERIES = 256
"""Queries per block."""


def ranks_from_similarity(
    similarity: Float[Tensor, "N M"], text_image_ids: Integer[Tensor, " M"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """Ranks of every image's best text and of every text's image.

    Args:
        similarity: Score of every image with every text, (N, M).
        text_image_ids: Row of each text's image, (M,).

    Returns:
        Image-to-text ranks (N,), 0 for images without text, and text-to-image ranks (M,).

    Raises:
        ValueError: If there is no text, or an id is not a row of `similarity`.
    """
    num_images = len(similarity)
    image_of_text = checked_ids(text_image_ids.to(similarity.device), num_images)
    positive = similarity.gather(0, image_of_text[None]).squeeze(0)
    best = _best_positive(positive, image_of_text, num_images)
    image_ranks = torch.ones(num_images, dtype=torch.long, device=similarity.device)
    text_ranks = torch.ones_like(image_of_text)
    for rows in _chunks(slice(0, num_images), _QUERIES):
        scores = similarity[rows]
        competes = image_of_text != torch.arange(rows.start, rows.stop, device=similarity.device)[:, None]
        image_ranks[rows] += (not_below(scores, best[rows, None]) & competes).sum(dim=1)
        text_ranks += (not_below(scores, positive) & competes).sum(dim=0)
    return _without_textless(image_ranks, image_of_text), text_ranks


@torch.no_grad()
def streamed_ranks(
    score_block: ScoreBlock,
    num_images: int,
    text_image_ids: Integer[Tensor, " M"],
    *,
    image_block: int = 256,
    text_block: int = 1024,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """Ranks of every image's best text and of every text's image, from one tile of scores at a time.

    Texts are sorted by image and split at the same images, so that all texts of an image block are in one text block.
    The tiles on this diagonal are scored first, since they contain all positives; the other tiles contain only
    competitors. Every pair is scored exactly once, and memory holds one tile and a few numbers per item.

    Args:
        score_block: Returns the scores (n, m) of the images and texts with given numbers, (n,) and (m,), on the device
            of `text_image_ids`.
        num_images: N.
        text_image_ids: Image of each text, 0..N-1 in any order, (M,).
        image_block: Most images in a tile.
        text_block: Most texts in a tile.

    Returns:
        Image-to-text ranks (N,), 0 for images without text, and text-to-image ranks (M,).

    Raises:
        ValueError: If there is no text, an id is not in 0..N-1, a block size is not positive, or `score_block` returns
            another shape.
    """
    if image_block < 1 or text_block < 1:
        raise ValueError(f"a tile of {image_block} x {text_block} scores is empty; give positive block sizes")
    image_of_text, order = checked_ids(text_image_ids, num_images).sort(stable=True)

    def score_tile(images: slice, texts: slice) -> Tensor:
        numbers = torch.arange(images.start, images.stop, device=order.device)
        return checked_scores(score_block, numbers, order[texts])

    num_texts = torch.bincount(image_of_text, minlength=num_images).tolist()
    blocks = _blocks(num_texts, image_block, text_block)
    image_ranks, text_ranks = _ranks_of_sorted(score_tile, blocks, image_of_text, num_images, text_block)
    return _without_textless(image_ranks, image_of_text), text_ranks[order.argsort()]


def best_true_ranks(
    score_rows: Callable[[Tensor], Float[Tensor, "q C"]],
    query_groups: Int[Tensor, " Q"],
    candidate_groups: Int[Tensor, " C"],
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate.

    Args:
        score_rows: Returns the scores of the queries with given numbers, (q,), with all candidates, (q, C).
        query_groups: Group of each query, (Q,); the true candidates of a query are those of the same group.
        candidate_groups: Group of each candidate, (C,).

    Returns:
        Ranks from 1, (Q,); 0 for a query without a true candidate.
    """
    numbers = torch.arange(len(query_groups), device=query_groups.device)
    ranks = []
    for queries, groups in zip(numbers.split(_QUERIES), query_groups.split(_QUERIES), strict=True):
        scores, own = score_rows(queries), groups[:, None] == candidate_groups
        best = scores.masked_fill(~own | scores.isnan(), -torch.inf).amax(1, keepdim=True)
        ranks.append((1 + (not_below(scores, best) & ~own).sum(1)) * own.any(1))
    return torch.cat(ranks)


@dataclass(frozen=True)
class _Block:
    """Consecutive images and all of their texts, where texts are sorted by image."""

    images: slice
    texts: slice


def _blocks(num_texts: list[int], image_block: int, text_block: int) -> list[_Block]:
    """Splits images into blocks within both limits; an image with more than `text_block` texts is a block by itself."""
    blocks = []
    start = first_text = 0
    while start < len(num_texts):
        stop, size = start + 1, num_texts[start]
        while stop < len(num_texts) and stop - start < image_block and size + num_texts[stop] <= text_block:
            size += num_texts[stop]
            stop += 1
        blocks.append(_Block(slice(start, stop), slice(first_text, first_text + size)))
        start, first_text = stop, first_text + size
    return blocks


def _chunks(whole: slice, size: int) -> Iterator[slice]:
    for start in range(whole.start, whole.stop, size):
        yield slice(start, min(start + size, whole.stop))


def _ranks_of_sorted(
    score_tile: Callable[[slice, slice], Tensor],
    blocks: list[_Block],
    image_of_text: Int[Tensor, " M"],
    num_images: int,
    text_block: int,
) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """Ranks for texts sorted by image; the rank of an image without text is undefined."""
    image_ranks = torch.ones(num_images, dtype=torch.long, device=image_of_text.device)
    text_ranks = torch.ones_like(image_of_text)
    positives = []
    for block in blocks:
        for texts in _chunks(block.texts, text_block):
            scores = score_tile(block.images, texts)
            own_row = image_of_text[texts] - block.images.start
            competes = own_row != torch.arange(len(scores), device=own_row.device)[:, None]
            positives.append(scores.gather(0, own_row[None]).squeeze(0))
            # a block of several tiles is a single image, and these tiles have no competitors
            best = _best_positive(positives[-1], own_row, len(scores))
            image_ranks[block.images] += (not_below(scores, best[:, None]) & competes).sum(dim=1)
            text_ranks[texts] += (not_below(scores, positives[-1]) & competes).sum(dim=0)
    positive = torch.cat(positives)
    for block in blocks:
        num_rows = block.images.stop - block.images.start
        best = _best_positive(positive[block.texts], image_of_text[block.texts] - block.images.start, num_rows)
        for others in (slice(0, block.texts.start), slice(block.texts.stop, len(positive))):
            for texts in _chunks(others, text_block):
                scores = score_tile(block.images, texts)
                image_ranks[block.images] += not_below(scores, best[:, None]).sum(dim=1)
                text_ranks[texts] += not_below(scores, positive[texts]).sum(dim=0)
    return image_ranks, text_ranks


def _best_positive(positive: Float[Tensor, " m"], own_row: Int[Tensor, " m"], num_rows: int) -> Float[Tensor, " n"]:
    """Highest score of each row's own texts, ignoring NaN; -inf if there is none."""
    positive = positive.masked_fill(positive.isnan(), -torch.inf)
    return positive.new_full((num_rows,), -torch.inf).scatter_reduce(0, own_row, positive, "amax")


def not_below(scores: Float[Tensor, "n m"], true_scores: Float[Tensor, "..."]) -> Bool[Tensor, "n m"]:
    """Which competitors rank before the true item: those that score higher or tie, and all if either score is NaN."""
    return ~(scores < true_scores)


def _without_textless(image_ranks: Int[Tensor, " N"], image_of_text: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The ranks, with 0 for images without text."""
    return image_ranks * (torch.bincount(image_of_text, minlength=len(image_ranks)) > 0)


def checked_scores(
    score_block: ScoreBlock, rows: Int[Tensor, " n"], columns: Int[Tensor, " m"]
) -> Float[Tensor, "n m"]:
    """The scores of a tile.

    Raises:
        ValueError: If `score_block` returns another shape.
    """
    scores = score_block(rows, columns)
    if scores.shape != (len(rows), len(columns)):
        raise ValueError(f"score_block gave {tuple(scores.shape)} scores for {len(rows)} x {len(columns)} pairs")
    return scores


def checked_ids(text_image_ids: Integer[Tensor, " M"], num_images: int) -> Int[Tensor, " M"]:
    """The ids as 64-bit integers.

    Raises:
        ValueError: If there is no id, or an id is not the number of an image.
    """
    text_image_ids = text_image_ids.long()
    if len(text_image_ids) == 0:
        raise ValueError("there is no text to rank")
    outside = text_image_ids[(text_image_ids < 0) | (text_image_ids >= num_images)]
    if len(outside):
        raise ValueError(f"text_image_ids has {outside[0].item()}, but images are numbered 0 to {num_images - 1}")
    return text_image_ids
