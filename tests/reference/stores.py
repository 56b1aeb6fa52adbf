"""A vector store in a dictionary, which scores one pair after the other in float64."""

import numpy as np
import torch

from ascl_lightning.data.batch import Features
from ascl_lightning.gallery.store import Neighbours
from ascl_lightning.search.encoded import Encoded


class PlainStore:
    def __init__(self):
        self._items = {}

    def upsert(self, ids, items):
        ids = [int(number) for number in ids]
        if len(set(ids)) != len(ids) or len(ids) != len(items) or min(ids, default=0) < 0:
            raise ValueError("ids")
        self._items.update(zip(ids, map(as_stored, items), strict=True))

    def delete(self, ids):
        for number in ids:
            self._items.pop(int(number), None)

    def search(self, queries, k, allowed=None):
        if k < 1:
            raise ValueError("k")
        if any(queries.shape[1] != item.shape[1] for item in self._items.values()):
            raise ValueError("width")
        wanted = self._items if allowed is None else set(map(int, allowed)) & set(self._items)
        rows = [
            sorted((-float(self._items[number].embeds[0].double() @ query.double()), number) for number in wanted)[:k]
            for query in queries
        ]
        padded = [row + [(torch.inf, -1)] * (k - len(row)) for row in rows]
        ids = [[number for _, number in row] for row in padded]
        scores = [[-score for score, _ in row] for row in padded]
        return Neighbours(torch.tensor(ids).reshape(-1, k), torch.tensor(scores).reshape(-1, k))

    def items(self, ids):
        if not len(ids):
            raise ValueError("ask for at least one item")
        return Encoded.join([self._items[int(number)] for number in ids])

    def ids(self):
        return np.array(sorted(self._items), np.int64)

    def count(self):
        return len(self._items)

    def close(self):
        pass


def as_stored(item):
    """Rounded to float16, with the real tokens first and no padding."""
    features = item.features
    tokens = features.tokens[features.mask][None].half().float()
    embeds = item.embeds.half().float()
    pooled = embeds if item.shares_vectors else features.pooled.half().float()
    mask = torch.ones(1, tokens.shape[1], dtype=torch.bool)
    return Encoded(item.kind, embeds, Features(pooled, tokens, mask), item.model)
