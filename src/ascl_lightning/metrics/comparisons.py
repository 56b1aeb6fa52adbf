"""How often an image scores one of two texts made from its caption above the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from jaxtyping import Bool, Float
from torch import Tensor

Kind = tuple[str | None, str | None]
"""The operations that made a text from a caption: for T+, then for T-; (None, None) is the caption itself."""
ORIGINAL: Kind = (None, None)


@dataclass(frozen=True)
class Comparison:
    """How often an image scores the first of two texts made from its caption above the second.

    Args:
        type: Type of asymmetry, as in metric names.
        first: Operations that made the first text.
        second: Operations that made the second text.
        share: Fraction of the counted captions; ties do not count as preferences.
        count: Number of captions from which two different texts could be made.
    """

    type: str
    first: Kind
    second: Kind
    share: float
    count: int

    @property
    def with_its_negative(self) -> bool:
        """Whether the second text was made from the first."""
        return self.second != ORIGINAL and self.second[0] == self.first[0]

    @property
    def name(self) -> str:
        """Name of the metric.

        Example:
            >>> Comparison("type_iii", ("half", None), (None, "drop"), 1.0, 1).name
            'type_iii/half/over_negative/drop'
        """
        parts = [self.type] if self.first[0] is None else [self.type, self.first[0]]
        if self.second == ORIGINAL:
            return "/".join([*parts, "over_text"])
        return "/".join([*parts, *([] if self.with_its_negative else ["over_negative"]), str(self.second[1])])


def label(kind: Kind) -> str:
    """Label of a kind of text, for tables.

    Example:
        >>> [label(kind) for kind in (ORIGINAL, ("half", None), ("half", "drop"))]
        ['T', 'T+ (half)', '(T+)- (half, drop)']
    """
    positive, negative = kind
    name = "T" if positive is None else "T+"
    if negative is not None:
        name = "T-" if positive is None else "(T+)-"
    made_by = ", ".join(operation for operation in kind if operation is not None)
    return f"{name} ({made_by})" if made_by else name


def compare_texts(
    scores: Mapping[Kind, Float[Tensor, " C"]], differs: Mapping[Kind, Bool[Tensor, " C"]], types: Mapping[str, str]
) -> list[Comparison]:
    """Compares T with T-, and T+ with (T+)-, T- and T, for every operation.

    Args:
        scores: Scores of C images with a text made from each one's caption, (C,), by kind of text.
        differs: Whether the text differs from the one that it was made from, (C,).
        types: Type of asymmetry of each operation.

    Returns:
        The comparisons with at least one counted caption.

    Example:
        >>> import torch
        >>> scores = {ORIGINAL: torch.tensor([0.9, 0.2]), (None, "drop"): torch.tensor([0.5, 0.3])}
        >>> (found,) = compare_texts(scores, dict.fromkeys(scores, torch.tensor([True, True])), {"drop": "type_i"})
        >>> found.name, found.share, found.count
        ('type_i/drop', 0.5, 2)
    """
    compared = []
    for first, second in _pairs(scores):
        counts = differs[first] & differs[second]
        if counts.any():
            share = (scores[first] > scores[second])[counts].double().mean().item()
            kind = types[str(second[1] if first == ORIGINAL else first[0])]
            compared.append(Comparison(kind, first, second, share, int(counts.sum())))
    return compared


def mean_shares(compared: Sequence[Comparison]) -> dict[str, float]:
    """Mean share of each type over its operations, for comparisons of texts with negatives made from them.

    Example:
        >>> drop = Comparison("type_i", ORIGINAL, (None, "drop"), 0.25, 4)
        >>> swap = Comparison("type_i", ORIGINAL, (None, "swap"), 0.75, 4)
        >>> mean_shares([drop, swap])
        {'type_i': 0.5}
    """
    of_type: dict[str, list[float]] = {}
    for comparison in compared:
        if comparison.with_its_negative:
            of_type.setdefault(comparison.type, []).append(comparison.share)
    return {kind: fmean(shares) for kind, shares in of_type.items()}


def _pairs(kinds: Mapping[Kind, Tensor]) -> Iterator[tuple[Kind, Kind]]:
    for positive, negative in kinds:
        if negative is not None:
            yield (positive, None), (positive, negative)
        if positive is not None:
            yield (positive, None), (None, negative)
