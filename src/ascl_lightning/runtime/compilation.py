"""Functions that `torch.compile` leaves alone."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def never_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """As `torch.compiler.disable`, without importing the compiler, which takes seconds, before something compiles."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        result: R = torch.compiler.disable(function)(*args, **kwargs)
        return result

    return call
