"""Ranks of any number of positives a query, more or less relevant ones too, and the figures that follow from them.

As in `ranks`, whatever is not strictly below a positive ranks before it, so that ties and NaN count against the
model; among positives that tie, the less relevant come first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from ascl_lightning.metrics.queries import Queries
from ascl_lightning.metrics.ranks import ScoreBlock

_CELLS = 1 << 22
"""Scores held at once: a block of queries has so many."""
_ITEM_BLOCK = 1024
ABSENT = -1


@dataclass(frozen=True, eq=False)
class Positives:
    """Which items answer which queries: row i of each field is one such pair.

    Args:
        query: Number of the query, (P,). One that is not named is no query.
        item: Number of the item, (P,); `ABSENT` for a positive that the gallery lacks: it is never found, and counts.
        grade: How relevant the item is, above 0, (P,); None: all alike.
        gallery: Numbers of the items that are ranked, (G,); None: all.

    Raises:
        ValueError: If a pair comes twice, a grade is not above 0, or an item is not in the gallery.
    """

    query: Integer[Tensor, " P"]
    item: Integer[Tensor, " P"]
    grade: Float[Tensor, " P"] | None = None
    gallery: Integer[Tensor, " G"] | None = None

    def __post_init__(self) -> None:
        present = self.item != ABSENT
        pairs = torch.stack([self.query, self.item])[:, present]
        if pairs.unique(dim=1).shape != pairs.shape:
            raise ValueError("a pair of query and item comes twice")
        if self.grade is not None and not bool((self.grade > 0).all()):
            raise ValueError("a grade must be above 0; what is not relevant is no positive")
        if self.gallery is not None and not bool(torch.isin(self.item[present], self.gallery).all()):
            raise ValueError("a positive is not in the gallery")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.query)


def own_positives(image_of_text: Integer[Tensor, " M"]) -> tuple[Positives, Positives]:
    """An image and its own texts, and nothing else.

    Args:
        image_of_text: Number of each text's image, (M,).

    Returns:
        For images as queries, and for texts as queries.
    """
    texts = torch.arange(len(image_of_text), device=image_of_text.device)
    return Positives(image_of_text, texts), Positives(texts, image_of_text)


@dataclass(frozen=True, eq=False)
class PositiveRanks:
    """Where the positives of each query ended; the pairs are sorted by query, and the ranks of a query rise.

    Attributes:
        query: Numbers of the queries, rising, (Q,).
        row: Row of each pair's query, (P,).
        place: Whether a pair is the first, second, ... of its query, from 1, (P,).
        rank: Rank of the pair's item among all items, (P,); infinite for a positive that the gallery lacks.
        grade: How relevant it is, (P,); None: all alike.
    """

    query: Int[Tensor, " Q"]
    row: Int[Tensor, " P"]
    place: Float[Tensor, " P"]
    rank: Float[Tensor, " P"]
    grade: Float[Tensor, " P"] | None

    @property
    def number(self) -> Float[Tensor, " Q"]:
        """R, the number of positives of each query."""
        return self._sum(torch.ones_like(self.rank))

    def best_rank(self) -> Int[Tensor, " Q"]:
        """Rank of the best positive of each query, to which the others are no competitors.

        Raises:
            ValueError: If the gallery lacks all positives of a query.
        """
        best = self.rank[self.place == 1]
        if not bool(best.isfinite().all()):
            raise ValueError(f"the gallery lacks all positives of query {self.query[~best.isfinite()][0].item()}")
        return best.long()

    def r_precision(self) -> Float[Tensor, " Q"]:
        """Share of positives among the first R items."""
        return self._sum((self.rank <= self.number[self.row]).double()) / self.number

    def map_at_r(self) -> Float[Tensor, " Q"]:
        """Mean over the first R places of the precision there, 0 where no positive is (Musgrave et al., ECCV 2020)."""
        within = (self.rank <= self.number[self.row]).double()
        return self._sum(within * self.place / self.rank) / self.number

    def average_precision(self) -> Float[Tensor, " Q"]:
        """Mean over the positives of the precision at the place of each."""
        return self._sum(self.place / self.rank) / self.number

    def ndcg(self) -> Float[Tensor, " Q"]:
        """Sum of grade / log2(rank + 1), over the same in the best of all orders (Jarvelin and Kekalainen, 2002)."""
        grade = torch.ones_like(self.rank) if self.grade is None else self.grade.double()
        falling = torch.argsort(grade, descending=True, stable=True)
        ideal = grade[falling][torch.argsort(self.row[falling], stable=True)]
        gained, best = grade / (self.rank + 1).log2(), ideal / (self.place + 1).log2()
        return self._sum(gained) / self._sum(best)

    def _sum(self, values: Float[Tensor, " P"]) -> Float[Tensor, " Q"]:
        return values.new_zeros(len(self.query)).scatter_add(0, self.row, values)


def relevance_queries(
    score_block: ScoreBlock,
    image_to_text: Positives,
    text_to_image: Positives,
    image_of_text: Integer[Tensor, " M"],
    image_ids: Sequence[str],
) -> Queries:
    """What each query gave in both directions: rank of its best positive, mAP@R, R-Precision, and nDCG with grades.

    Args:
        score_block: Gives the scores of the images and texts whose numbers it is called with, as in `streamed_ranks`.
        image_to_text: The texts that answer images.
        text_to_image: The images that answer texts.
        image_of_text: Number of each text's own image, (M,).
        image_ids: The id of each image, N of them.

    Returns:
        The queries that have a positive.

    Raises:
        ValueError: If a direction has no positive, or the gallery lacks all positives of a query.
    """
    images = positive_ranks(score_block, len(image_of_text), image_to_text)
    texts = positive_ranks(lambda t, i: score_block(i, t).T, len(image_ids), text_to_image)
    return Queries.from_ranks(
        _spread(images.best_rank(), images, len(image_ids)),
        _spread(texts.best_rank(), texts, len(image_of_text)),
        image_of_text.cpu().numpy(),
        image_ids,
        {name: _spread(values, images, len(image_ids)) for name, values in _shares(images).items()},
        {name: _spread(values, texts, len(image_of_text)) for name, values in _shares(texts).items()},
    )


def _shares(ranks: PositiveRanks) -> dict[str, Float[Tensor, " Q"]]:
    shares = {"map_at_r": ranks.map_at_r(), "r_precision": ranks.r_precision()}
    return shares if ranks.grade is None else shares | {"ndcg": ranks.ndcg()}


def _spread(values: Tensor, ranks: PositiveRanks, size: int) -> np.ndarray:
    """The values at the numbers of their queries, 0 elsewhere."""
    return values.new_zeros(size).index_put((ranks.query,), values).cpu().numpy()


@torch.no_grad()
def positive_ranks(score_block: ScoreBlock, num_items: int, positives: Positives) -> PositiveRanks:
    """Rank all positives of every query, a block of queries at a time, each against all items of the gallery.

    Args:
        score_block: Gives the scores (n, m) of the queries and items whose numbers it is called with, (n,) and (m,);
            all on the device of `positives`.
        num_items: Number of items; those that are ranked are `positives.gallery`.
        positives: At least one.

    Returns:
        Ranks from 1. The memory that it takes does not grow with the number of queries.

    Raises:
        ValueError: If there is no positive, or a tile has another shape.
    """
    if len(positives) == 0:
        raise ValueError("there is no positive to rank")
    gallery = positives.gallery
    if gallery is None:
        gallery = torch.arange(num_items, device=positives.query.device)
    column_of = torch.full((num_items + 1,), ABSENT, device=gallery.device)  # the last row is that of ABSENT
    column_of[gallery] = torch.arange(len(gallery), device=gallery.device)
    queries, row = positives.query.unique(return_inverse=True)
    order = torch.argsort(row, stable=True)
    row, column = row[order], column_of[positives.item[order]]

    before, score = [], []
    ends = torch.bincount(row).cumsum(0)
    size = max(1, _CELLS // len(gallery))
    for start in range(0, len(queries), size):
        numbers = queries[start : start + size]
        pairs = slice(int(ends[start - 1]) if start else 0, int(ends[start + len(numbers) - 1]))
        scores = _scores(score_block, numbers, gallery)
        before.append(_num_before(scores, row[pairs] - start, column[pairs]))
        score.append(scores[row[pairs] - start, column[pairs]].double())
    grade = None if positives.grade is None else positives.grade[order]
    present = column != ABSENT
    return _sorted(queries, row, torch.cat(before), torch.cat(score), present, grade)


def _scores(score_block: ScoreBlock, queries: Int[Tensor, " n"], gallery: Int[Tensor, " G"]) -> Float[Tensor, "n G"]:
    tiles = []
    for items in gallery.split(_ITEM_BLOCK):
        tiles.append(score_block(queries, items))
        if tiles[-1].shape != (len(queries), len(items)):
            raise ValueError(
                f"score_block gave {tuple(tiles[-1].shape)} scores for {len(queries)} x {len(items)} pairs"
            )
    return torch.cat(tiles, dim=1)


def _num_before(scores: Float[Tensor, "n G"], row: Int[Tensor, " p"], column: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """How many items that are no positives of its query rank before each positive; pairs are sorted by row."""
    sizes = torch.bincount(row, minlength=len(scores))
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    # NaN, which is below nothing, where the gallery lacks a positive or there is none
    positive = scores.new_full((len(scores), int(sizes.max())), torch.nan)
    present = column != ABSENT
    positive[row[present], place[present]] = scores[row[present], column[present]]
    num_others = scores.shape[1] - torch.bincount(row[present], minlength=len(scores))
    before = torch.empty_like(row)
    for number in range(positive.shape[1]):
        of_place = place == number
        rows = row[of_place]
        own = positive[rows, number, None]
        of_rows = scores if len(rows) == len(scores) else scores[rows]
        # whatever is not below, as in `ranks`, less the positives among that
        below = (of_rows < own).sum(dim=1) - (positive[rows] < own).sum(dim=1)
        before[of_place] = num_others[rows] - below
    return before


def _sorted(
    queries: Int[Tensor, " Q"],
    row: Int[Tensor, " P"],
    before: Int[Tensor, " P"],
    score: Float[Tensor, " P"],
    present: Bool[Tensor, " P"],
    grade: Float[Tensor, " P"] | None,
) -> PositiveRanks:
    """Ranks among all items, from those among the items that are no positives."""
    keys = [
        torch.zeros_like(score) if grade is None else grade,
        -score.masked_fill(score.isnan(), -torch.inf),
        ~present,
        row,
    ]
    order = torch.arange(len(row), device=row.device)
    # the last key is the first to decide
    for key in keys:
        order = order[torch.argsort(key[order], stable=True)]
    row, before, present = row[order], before[order], present[order]
    sizes = torch.bincount(row)
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row] + 1
    rank = torch.where(present, (before + place).double(), torch.inf)
    return PositiveRanks(queries, row, place.double(), rank, None if grade is None else grade[order])
