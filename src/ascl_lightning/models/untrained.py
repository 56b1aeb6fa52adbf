"""Towers without their pretrained weights, for models whose own weights are loaded afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOADS_PRETRAINED = ContextVar("loads_pretrained", default=True)


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Towers that are built inside have random weights: only their configuration is read.

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
    """Whether towers load pretrained weights when they are built: False inside `without_pretrained_weights`."""
    return _LOADS_PRETRAINED.get()
