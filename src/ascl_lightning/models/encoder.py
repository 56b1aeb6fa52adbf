"""What image and text towers share: being frozen, and a learning rate of their own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ascl_lightning.data.batch import Features


class Encoder(nn.Module, ABC):
    """A tower: gives one global vector and local tokens for each of its inputs.

    A subclass builds its layers after `super().__init__()`, sets `spec`, `pooled_dim` and `token_dim`, and ends its
    constructor with `self._finish()`.

    Args:
        frozen: Never trained: parameters without gradient, no gradient through the tower, and evaluation mode (dropout
            off, batch statistics as they are) whatever `train()` is told.
        learning_rate: The tower's own learning rate; None: the optimizer's.
    """

    pooled_dim: int
    """Width P of the global vector."""
    token_dim: int
    """Width T of the tokens."""

    def __init__(self, frozen: bool, learning_rate: float | None) -> None:
        super().__init__()
        self.frozen = frozen
        self.learning_rate = learning_rate

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> Any:
        """The `spec` of a tower with these arguments; towers that load weights tell it without loading them.

        Args:
            arguments: All arguments of the constructor, by name.

        Raises:
            UserError: If what tells it cannot be had.
        """
        return cls(**arguments).spec

    def forward(self, inputs: Any) -> Features:
        """Unprojected features: pooled (B, P), tokens (B, K, T) and their mask (B, K)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._encode(inputs)

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`; a frozen tower stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    @abstractmethod
    def _encode(self, inputs: Any) -> Features:
        """What `forward` gives."""

    def _finish(self) -> None:
        if self.frozen:
            self.requires_grad_(False)
        # pretrained modules arrive in evaluation mode, and Lightning keeps the mode it finds
        self.train()
