"""mAP@R, R-precision and nDCG, from the ranks of all positives of each query, optionally with grades of relevance.

As in `ranks`, ties and NaN count against the model; among tied positives, the less relevant rank first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from ascl_lightning.metrics.query_results import Queries
from ascl_lightning.metrics.ranks import ScoreBlock, checked_scores, not_below

_CELLS = 1 << 22
"""Most scores in memory: the size of a block of queries times the gallery."""
_ITEM_BLOCK = 1024
ABSENT = -1


@dataclass(frozen=True, eq=False)
class Positives:
    """Pairs of queries and their positive items; row i of each field is one pair.

    Args:
        query: Number of the query, (P,). Only these are queries.
        item: Number of the item, (P,); `ABSENT` for a positive that is not in the gallery and counts as never found.
        grade: Relevance of the item, above 0, (P,); None: all equal.
        gallery: Numbers of the ranked items, (G,); None: all.

    Raises:
        ValueError: If a pair is repeated, a grade is not above 0, or an item is not in the gallery.
    """

    query: Integer[Tensor, " P"]
    item: Integer[Tensor, " P"]
    grade: Float[Tensor, " P"] | None = None
    gallery: Integer[Tensor, " G"] | None = None

    def __post_init__(self) -> None:
        present = self.item != ABSENT
        pairs = torch.stack([self.query, self.item])[:, present]
        if pairs.unique(dim=1).shape != pairs.shape:
            raise ValueError("a pair of query and item is repeated")
        if self.grade is not None and not bool((self.grade > 0).all()):
            raise ValueError("grades must be above 0: irrelevant items are not positives")
        if self.gallery is not None and not bool(torch.isin(self.item[present], self.gallery).all()):
            raise ValueError("a positive is not in the gallery")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.query)


def own_positives(image_of_text: Integer[Tensor, " M"]) -> tuple[Positives, Positives]:
    """Positives of the default protocol: pairs of an image and its own texts.

    Args:
        image_of_text: Number of each text's image, (M,).

    Returns:
        Positives of images as queries, and of texts as queries.
    """
    texts = torch.arange(len(image_of_text), device=image_of_text.device)
    return Positives(image_of_text, texts), Positives(texts, image_of_text)


@dataclass(frozen=True, eq=False)
class PositiveRanks:
    """Ranks of all positives; pairs are sorted by query, then by rank.

    Attributes:
        query: Numbers of the queries, ascending, (Q,).
        row: Row of each pair's query, (P,).
        place: Position of a pair among those of its query, from 1, (P,).
        rank: Rank of the pair's item among all items, (P,); infinite for a positive that is not in the gallery.
        grade: Relevance of the item, (P,); None: all equal.
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
        """Rank of the best positive of each query; other positives do not compete.

        Raises:
            ValueError: If no positive of a query is in the gallery.
        """
        best = self.rank[self.place == 1]
        if not bool(best.isfinite().all()):
            raise ValueError(f"the gallery lacks all positives of query {self.query[~best.isfinite()][0].item()}")
        return best.long()

    def r_precision(self) -> Float[Tensor, " Q"]:
        """Fraction of positives among the first R items."""
        return self._sum((self.rank <= self.number[self.row]).double()) / self.number

    def map_at_r(self) -> Float[Tensor, " Q"]:
        """Mean over the first R ranks of the precision there, 0 at ranks of negatives (Musgrave et al., ECCV 2020)."""
        within = (self.rank <= self.number[self.row]).double()
        return self._sum(within * self.place / self.rank) / self.number

    def average_precision(self) -> Float[Tensor, " Q"]:
        """Mean over the positives of the precision at the rank of each."""
        return self._sum(self.place / self.rank) / self.number

    def ndcg(self) -> Float[Tensor, " Q"]:
        """Sum of grade / log2(rank + 1), divided by that of the ideal order (Jarvelin and Kekalainen, 2002)."""
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
    """Results of each query in both directions: rank of the best positive, mAP@R, R-precision, and nDCG with grades.

    Args:
        score_block: Returns the scores of images and texts with given numbers, as in `streamed_ranks`.
        image_to_text: Positive texts of images.
        text_to_image: Positive images of texts.
        image_of_text: Number of each text's own image, (M,).
        image_ids: Id of each image, N of them.

    Returns:
        The queries that have a positive.

    Raises:
        ValueError: If a direction has no positive, or no positive of a query is in the gallery.
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
    """Values by number of the query, 0 for items that are not queries."""
    return values.new_zeros(size).index_put((ranks.query,), values).cpu().numpy()


@torch.no_grad()
def positive_ranks(score_block: ScoreBlock, num_items: int, positives: Positives) -> PositiveRanks:
    """Ranks all positives of every query against the gallery, one block of queries at a time.

    Args:
        score_block: Returns the scores (n, m) of the queries and items with given numbers, (n,) and (m,), on the device
            of `positives`.
        num_items: Number of items; `positives.gallery` names those that are ranked.
        positives: The positives, at least one.

    Returns:
        Ranks from 1.

    Raises:
        ValueError: If there is no positive, or `score_block` returns another shape.
    """
    if len(positives) == 0:
        raise ValueError("there is no positive to rank")
    gallery = positives.gallery
    if gallery is None:
        gallery = torch.arange(num_items, device=positives.query.device)
    column_of = torch.full((num_items + 1,), ABSENT, device=gallery.device)  # the last row is for ABSENT
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
    return torch.cat([checked_scores(score_block, queries, items) for items in gallery.split(_ITEM_BLOCK)], dim=1)


def _num_before(scores: Float[Tensor, "n G"], row: Int[Tensor, " p"], column: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """Number of negatives that rank before each positive; pairs are sorted by row."""
    sizes = torch.bincount(row, minlength=len(scores))
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    # NaN for a positive that the gallery lacks: all negatives rank before it
    positive = scores.new_full((len(scores), int(sizes.max())), torch.nan)
    present = column != ABSENT
    positive[row[present], place[present]] = scores[row[present], column[present]]
    is_positive = torch.zeros_like(positive, dtype=torch.bool)
    is_positive[row[present], place[present]] = True
    before = torch.empty_like(row)
    for number in range(positive.shape[1]):
        of_place = place == number
        rows = row[of_place]
        own = positive[rows, number, None]
        of_rows = scores if len(rows) == len(scores) else scores[rows]
        positives_before = (not_below(positive[rows], own) & is_positive[rows]).sum(dim=1)
        before[of_place] = not_below(of_rows, own).sum(dim=1) - positives_before
    return before


def _sorted(
    queries: Int[Tensor, " Q"],
    row: Int[Tensor, " P"],
    before: Int[Tensor, " P"],
    score: Float[Tensor, " P"],
    present: Bool[Tensor, " P"],
    grade: Float[Tensor, " P"] | None,
) -> PositiveRanks:
    """Ranks among all items, from the number of negatives before each positive."""
    keys = [
        torch.zeros_like(score) if grade is None else grade,
        -score.masked_fill(score.isnan(), -torch.inf),
        ~present,
        row,
    ]
    order = torch.arange(len(row), device=row.device)
    # stable sorts: the last key is the primary one
    for key in keys:
        order = order[torch.argsort(key[order], stable=True)]
    row, before, present = row[order], before[order], present[order]
    sizes = torch.bincount(row)
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row] + 1
    rank = torch.where(present, (before + place).double(), torch.inf)
    return PositiveRanks(queries, row, place.double(), rank, None if grade is None else grade[order])
