"""Number types with a range, for signatures that configs fill; the command line validates them before building objects.

At run time they are plain numbers. Values of jsonargparse's restricted types are instances of its own classes, which
weights-only loading of checkpoints rejects.
"""

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

MAX_SEED = 2**32 - 1


class _NotBool:
    """Rejects true and false, which pydantic converts to 1 and 0."""

    def __repr__(self) -> str:
        return "not bool"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        # importing it here keeps the package's own import fast
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self._check, handler(source))

    @staticmethod
    def _check(value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number")
        return value


PositiveInt = Annotated[int, Gt(0), _NotBool()]
NonNegativeInt = Annotated[int, Ge(0), _NotBool()]
Seed = Annotated[int, Ge(0), Le(MAX_SEED), _NotBool()]
PositiveFloat = Annotated[float, Gt(0), _NotBool()]
NonNegativeFloat = Annotated[float, Ge(0), _NotBool()]
UnitInterval = Annotated[float, Ge(0), Le(1), _NotBool()]
"""Fractions and probabilities."""
ShareBelowOne = Annotated[float, Ge(0), Lt(1), _NotBool()]
"""Dropout rates: 1 would drop everything."""
