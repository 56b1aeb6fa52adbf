"""Number types with a range, for signatures that configs fill; the command line validates them before building objects.

At run time they are plain numbers. Values of jsonargparse's restricted types are instances of its own classes, which
weights-only loading of checkpoints rejects.
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
"""Fractions and probabilities."""
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
"""Dropout rates: 1 would drop everything."""
