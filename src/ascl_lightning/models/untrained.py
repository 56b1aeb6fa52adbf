"""Builds towers without pretrained weights, for models whose weights are loaded afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOADS_PRETRAINED = ContextVar("loads_pretrained", default=True)


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Towers built in this context read only their configuration and have random weights.

    Example:
        >>> with without_pretrained_weights():
        ...     loads_pretrained_weights()
        False
    """
    token = _LOADS_PRETRAINED.set(False)
    try:
        yield
    finally:
        _LOADS_PRETRAINED.reset(token)


def loads_pretrained_weights() -> bool:
    """Whether new towers load pretrained weights: False inside `without_pretrained_weights`."""
    return _LOADS_PRETRAINED.get()
