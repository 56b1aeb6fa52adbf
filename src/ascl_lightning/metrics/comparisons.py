"""How often the image of a caption prefers one of two texts that were made of the caption."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from jaxtyping import Bool, Float
from torch import Tensor

Kind = tuple[str | None, str | None]
"""The operations that made a text of a caption: that of T+ and that of T-, in this order; (None, None) is T."""
ORIGINAL: Kind = (None, None)


@dataclass(frozen=True)
class Comparison:
    """Two texts made of the same caption, and how often the caption's image prefers the first.

    Args:
        type: Of the asymmetry in question, as it stands in names.
        first: How the first was made.
        second: How the second was made.
        share: Of the captions that count; a tie is no preference.
        count: Captions that count: those of which two different texts could be made.
    """

    type: str
    first: Kind
    second: Kind
    share: float
    count: int

    @property
    def with_its_negative(self) -> bool:
        """Whether the second was made of the first."""
        return self.second != ORIGINAL and self.second[0] == self.first[0]

    @property
    def name(self) -> str:
        """As metrics have it.

        Example:
            >>> Comparison("type_iii", ("half", None), (None, "drop"), 1.0, 1).name
            'type_iii/half/over_negative/drop'
        """
        parts = [self.type] if self.first[0] is None else [self.type, self.first[0]]
        if self.second == ORIGINAL:
            return "/".join([*parts, "over_text"])
        return "/".join([*parts, *([] if self.with_its_negative else ["over_negative"]), str(self.second[1])])


def label(kind: Kind) -> str:
    """A kind of text as tables show it.

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
    """T with T-, T+ with (T+)-, with T- and with T, for every operation.

    Args:
        scores: Of the images of C captions with a text made of each caption, by how it was made.
        differs: Where the text differs from the one that it was made of.
        types: Type of asymmetry that each operation makes.

    Returns:
        The comparisons for which a caption counts.

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
    """Mean share of each type over its operations, of texts before the negatives made of them.

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
