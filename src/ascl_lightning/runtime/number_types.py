"""Numbers with a range, for signatures that configs fill: the command line refuses others before anything is built.

To Python and type checkers they are plain numbers. The restricted types of jsonargparse would arrive as instances of
classes of its own, which weights-only checkpoints refuse.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

MAX_SEED = 2**32 - 1

PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(MAX_SEED)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
"""Shares and probabilities."""
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
"""Dropout: dropping all would leave nothing."""
