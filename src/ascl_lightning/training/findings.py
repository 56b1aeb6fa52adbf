"""What callbacks find out about a model, kept with the module for whoever shows it: no callback reads another one."""

from dataclasses import dataclass, field

from torch import Tensor

from ascl_lightning.data.provenance import Leak
from ascl_lightning.metrics.comparisons import Comparison


@dataclass
class LeakCheck:
    """What a test was checked for.

    Attributes:
        found: What falsifies the figures.
        unchecked: What could not be looked at.
        notes: What is no leak by itself, such as captions that stand in training too.
    """

    found: list[Leak] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """Of one run of the trainer; the module starts each run with empty ones.

    Attributes:
        leaks: None where nothing was checked.
        made_scores: Fused scores of T+ and T- with their images, from the report card.
        comparisons: How often images prefer one kind of text to another, in the last validation.
    """

    leaks: LeakCheck | None = None
    made_scores: dict[str, Tensor] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
