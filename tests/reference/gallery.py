"""Naive versions of a gallery's parts: filters as loops over rows, and searches that score all pairs."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ascl_lightning import Encoded, Retriever
from ascl_lightning.gallery.where import Comparison, Filter, Not

_OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "contains": lambda text, part: part.casefold() in text.casefold(),
}


def fulfils(row: Mapping[str, Any], tree: Filter) -> bool:
    """Whether a filter is true for a row; a comparison with a missing value is false."""
    if isinstance(tree, Comparison):
        value = row[tree.field]
        if tree.field == "tags":
            return value is not None and tree.value.casefold() in value.casefold().split("\n")
        return value is not None and bool(_OPERATORS[tree.operator](value, tree.value))
    if isinstance(tree, Not):
        return not fulfils(row, tree.inner)
    found = [fulfils(row, part) for part in tree.parts]
    return all(found) if tree.operator == "and" else any(found)


def written(tree: Filter) -> str:
    """A filter as text, with all brackets."""
    if isinstance(tree, Comparison):
        value = f"'{tree.value}'" if isinstance(tree.value, str) else repr(tree.value)
        return f"{tree.field} {tree.operator} {value}"
    if isinstance(tree, Not):
        return f"not ({written(tree.inner)})"
    return f" {tree.operator} ".join(f"({written(part)})" for part in tree.parts)


def search_all(
    retriever: Retriever,
    pictures: Encoded,
    ids: Sequence[int],
    terms: Sequence[tuple[float, str | Encoded]],
) -> list[tuple[int, float]]:
    """Ids and scores of all pictures, best first: a weighted sum of fused scores with texts and cosines with images."""
    total = torch.zeros(len(ids))
    for weight, term in terms:
        if isinstance(term, str):
            total += weight * retriever.score(pictures, [term])[:, 0]
        else:
            total += weight * (pictures.embeds @ term.embeds[0])
    return sorted(zip(ids, total.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
