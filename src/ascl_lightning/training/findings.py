"""Results that callbacks store on the module, so that no callback reads another one."""

from dataclasses import dataclass, field

from torch import Tensor

from ascl_lightning.data.provenance import Leak
from ascl_lightning.metrics.comparisons import Comparison


@dataclass
class LeakCheck:
    """Result of checking a test for leaks.

    Attributes:
        found: Leaks, which invalidate the metrics.
        unchecked: Checks that could not run.
        notes: Observations that are not leaks, such as test captions that also occur in training.
    """

    found: list[Leak] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class QueryBank:
    """Independent embeddings of training images and captions, and how hubness is measured by them.

    Attributes:
        image_embeds: Of images, (N, D).
        text_embeds: Of captions, (M, D).
        k: Number of nearest queries of an item.
        weight: Factor of their mean similarity.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    k: int
    weight: float


@dataclass
class Findings:
    """Findings of one trainer run; reset at the start of each run.

    Attributes:
        leaks: None if leaks were not checked.
        made_scores: Fused scores of T+ and T- with their images, from the report card.
        query_bank: None if hubness is not corrected.
        comparisons: How often images score one kind of text above another, from the last validation.
        is_ranked: Whether the split is ranked. A benchmark of hard negatives is not.
    """

    leaks: LeakCheck | None = None
    made_scores: dict[str, Tensor] = field(default_factory=dict)
    query_bank: QueryBank | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    is_ranked: bool = True
