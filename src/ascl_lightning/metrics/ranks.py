"""Ranks: the place of a true item among all candidates, from a matrix, from tiles of one, or in blocks of queries.

A rank counts every competitor that is not strictly below the true item, so ties and NaN count against the model. Best
is 1. A query is as good as its best true item, and its other true items are no competitors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

ScoreBlock = Callable[[Tensor, Tensor], Tensor]
"""Given n image numbers and m text numbers, (n,) and (m,), their scores, (n, m)."""
_QUERIES = 256
"""Rows that are ranked at a time."""


def ranks_from_similarity(
    similarity: Float[Tensor, "N M"], text_image_ids: Integer[Tensor, " M"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " M"]]:
    """Ranks of every image's best text and of every text's image.

    Args:
        similarity: Score of every image with every text, (N, M).
        text_image_ids: Row of each text's image, (M,).

    Returns:
        Image-to-text (N,), 0 for an image without text, and text-to-image (M,). Best is 1.

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
        image_ranks[rows] += (_not_below(scores, best[rows, None]) & competes).sum(dim=1)
        text_ranks += (_not_below(scores, positive) & competes).sum(dim=0)
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
    """Ranks of every image's best text and of every text's image, one tile of scores at a time.

    Texts are sorted by image and cut together with the images, so that a block of images finds all of its own texts in
    one block of texts. Those tiles come first: each holds the positives of its items, and is counted on the spot. The
    other tiles hold competitors alone. So every pair is scored once, a positive is compared by the very number that it
    was scored with, and no more is kept than one tile and a few numbers an item.

    Args:
        score_block: Gives the scores (n, m) of the images and texts whose numbers it is called with, (n,) and (m,);
            all on the device of `text_image_ids`.
        num_images: N.
        text_image_ids: Image of each text, 0..N-1 in any order, (M,).
        image_block: Largest number of images in a tile.
        text_block: Largest number of texts in a tile.

    Returns:
        Image-to-text (N,), 0 for an image without text, and text-to-image (M,). Best is 1.

    Raises:
        ValueError: If there is no text, an id is not in 0..N-1, a block is not positive, or a tile has another shape.
    """
    if image_block < 1 or text_block < 1:
        raise ValueError(f"a tile must hold something, not {image_block} x {text_block} scores")
    image_of_text, order = checked_ids(text_image_ids, num_images).sort(stable=True)

    def score_tile(images: slice, texts: slice) -> Tensor:
        scores = score_block(torch.arange(images.start, images.stop, device=order.device), order[texts])
        expected = (images.stop - images.start, texts.stop - texts.start)
        if scores.shape != expected:
            raise ValueError(f"score_block gave {tuple(scores.shape)} scores for {expected} images and texts")
        return scores

    num_texts = torch.bincount(image_of_text, minlength=num_images).tolist()
    blocks = _blocks(num_texts, image_block, text_block)
    image_ranks, text_ranks = _ranks_of_sorted(score_tile, blocks, image_of_text, num_images, text_block)
    return _without_textless(image_ranks, image_of_text), text_ranks[order.argsort()]


def best_true_ranks(
    score_rows: Callable[[Tensor], Float[Tensor, "q C"]],
    query_groups: Int[Tensor, " Q"],
    candidate_groups: Int[Tensor, " C"],
) -> Int[Tensor, " Q"]:
    """Rank of each query's best true candidate; ties and NaN count against it, other true ones do not compete.

    Args:
        score_rows: Gives the scores of some queries, by their numbers (q,), with all candidates.
        query_groups: A query and a candidate of the same group belong together.
        candidate_groups: See `query_groups`.

    Returns:
        Ranks from 1; 0 for a query to which no candidate belongs.
    """
    numbers = torch.arange(len(query_groups), device=query_groups.device)
    ranks = []
    for queries, groups in zip(numbers.split(_QUERIES), query_groups.split(_QUERIES), strict=True):
        scores, own = score_rows(queries), groups[:, None] == candidate_groups
        best = scores.masked_fill(~own | scores.isnan(), -torch.inf).amax(1, keepdim=True)
        ranks.append((1 + (_not_below(scores, best) & ~own).sum(1)) * own.any(1))
    return torch.cat(ranks)


@dataclass(frozen=True)
class _Block:
    """Consecutive images and all of their texts, which are consecutive once texts are sorted by image."""

    images: slice
    texts: slice


def _blocks(num_texts: list[int], image_block: int, text_block: int) -> list[_Block]:
    """Cut the images into blocks that exceed neither limit; an image with more than `text_block` texts is alone."""
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
    """Ranks where texts are numbered as sorted by image; that of an image without text means nothing."""
    image_ranks = torch.ones(num_images, dtype=torch.long, device=image_of_text.device)
    text_ranks = torch.ones_like(image_of_text)
    positives = []
    for block in blocks:
        for texts in _chunks(block.texts, text_block):
            scores = score_tile(block.images, texts)
            own_row = image_of_text[texts] - block.images.start
            competes = own_row != torch.arange(len(scores), device=own_row.device)[:, None]
            positives.append(scores.gather(0, own_row[None]).squeeze(0))
            # where a block takes several tiles it is one image, which nothing in them competes with
            best = _best_positive(positives[-1], own_row, len(scores))
            image_ranks[block.images] += (_not_below(scores, best[:, None]) & competes).sum(dim=1)
            text_ranks[texts] += (_not_below(scores, positives[-1]) & competes).sum(dim=0)
    positive = torch.cat(positives)
    for block in blocks:
        num_rows = block.images.stop - block.images.start
        best = _best_positive(positive[block.texts], image_of_text[block.texts] - block.images.start, num_rows)
        for others in (slice(0, block.texts.start), slice(block.texts.stop, len(positive))):
            for texts in _chunks(others, text_block):
                scores = score_tile(block.images, texts)
                image_ranks[block.images] += _not_below(scores, best[:, None]).sum(dim=1)
                text_ranks[texts] += _not_below(scores, positive[texts]).sum(dim=0)
    return image_ranks, text_ranks


def _best_positive(positive: Float[Tensor, " m"], own_row: Int[Tensor, " m"], num_rows: int) -> Float[Tensor, " n"]:
    """Highest score of each row's own texts, NaN left out; -inf where there is none."""
    positive = positive.masked_fill(positive.isnan(), -torch.inf)
    return positive.new_full((num_rows,), -torch.inf).scatter_reduce(0, own_row, positive, "amax")


def _not_below(scores: Float[Tensor, "n m"], true_scores: Float[Tensor, "..."]) -> Bool[Tensor, "n m"]:
    """Where a competitor ranks before the true item: a tie does, and so does NaN on either side."""
    return ~(scores < true_scores)


def _without_textless(image_ranks: Int[Tensor, " N"], image_of_text: Int[Tensor, " M"]) -> Int[Tensor, " N"]:
    """The same with 0 for images that no text belongs to."""
    return image_ranks * (torch.bincount(image_of_text, minlength=len(image_ranks)) > 0)


def checked_ids(text_image_ids: Integer[Tensor, " M"], num_images: int) -> Int[Tensor, " M"]:
    """The same as 64-bit integers.

    Raises:
        ValueError: If there is none, or one is not the number of an image.
    """
    text_image_ids = text_image_ids.long()
    if len(text_image_ids) == 0:
        raise ValueError("there is no text to rank")
    outside = text_image_ids[(text_image_ids < 0) | (text_image_ids >= num_images)]
    if len(outside):
        raise ValueError(f"text_image_ids has {outside[0].item()}, but images are numbered 0 to {num_images - 1}")
    return text_image_ids
