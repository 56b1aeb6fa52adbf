"""What a text operation makes of a caption."""

import numpy as np

from ascl_lightning.data.augment.operation import TextContext, TextOperation


def outcomes(operation: TextOperation, caption: str, context: TextContext | None = None, draws: int = 200) -> set[str]:
    """The texts that many seeds give."""
    context = context or TextContext((caption,))
    return {operation(caption, context, np.random.default_rng(seed)) for seed in range(draws)}
