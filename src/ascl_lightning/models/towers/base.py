"""What image and text towers share: how they are trained, or that they are not."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.models.towers.tuning import Tuning, add_adapters


class Encoder(nn.Module, ABC):
    """A tower: gives one global vector and local tokens for each of its inputs.

    A subclass builds its layers after `super().__init__()`, sets `spec`, `pooled_dim` and `token_dim`, and ends its
    constructor with `self._finish()`.

    Args:
        tuning: How the tower is trained.
    """

    pooled_dim: int
    """Width P of the global vector."""
    token_dim: int
    """Width T of the tokens."""
    pretrained: bool = False
    """Whether its weights were trained before."""

    def __init__(self, tuning: Tuning = Tuning()) -> None:
        super().__init__()
        self.tuning = tuning
        self.resting = False

    @classmethod
    def spec_of(cls, arguments: Mapping[str, Any]) -> Any:
        """The `spec` of a tower with these arguments; towers that load weights tell it without loading them.

        Args:
            arguments: All arguments of the constructor, by name.

        Raises:
            UserError: If what tells it cannot be had.
        """
        return cls(**arguments).spec

    def save_settings(self, folder: Path) -> None:
        """Writes files that rebuild the tower beside its constructor's arguments and its weights; most need none.

        Args:
            folder: Is made where there is something to write; a tower with an argument `path` is rebuilt from it.

        Raises:
            UserError: If what the tower was made from is no longer there.
        """

    def forward(self, inputs: Any) -> Features:
        """Unprojected features: pooled (B, P), tokens (B, K, T) and their mask (B, K)."""
        with_graph = torch.is_grad_enabled()
        with torch.set_grad_enabled(with_graph and not (self.tuning.frozen or self.resting)):
            features = self._encode(inputs)
        return self._with_zero_gradients(features) if self.resting and with_graph else features

    def train(self, mode: bool = True) -> "Encoder":
        """As `nn.Module.train`; a frozen or resting tower stays in evaluation mode."""
        super().train(mode and not (self.tuning.frozen or self.resting))
        return self

    def rest(self, resting: bool) -> None:
        """Whether the tower is left out of training for now.

        A resting tower is in evaluation mode and computes no gradients. Its parameters still require them and get
        zeros: distributed training waits for a gradient of every parameter that required one when it was set up.
        """
        if resting != self.resting:
            self.resting = resting
            self.train()

    def layer_numbers(self) -> dict[str, int]:
        """The layer of each parameter, by its name in the tower; 0 is nearest to the input.

        Raises:
            UserError: If the tower's layers cannot be told apart.
        """
        raise UserError(f"{type(self).__name__} has no layers to tell apart: set layer_decay to 1")

    def without_weight_decay(self) -> set[str]:
        """Names of the parameters that are not pulled to zero: norms, biases, single vectors, positions."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or "bias" in name or "position" in name
        }

    @abstractmethod
    def _encode(self, inputs: Any) -> Features:
        """What `forward` gives."""

    def _checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass."""
        raise UserError(f"{type(self).__name__} cannot compute activations again: set checkpointing to false")

    def _finish(self) -> None:
        if self.tuning.checkpointing:
            self._checkpoint_activations()
        if self.tuning.lora is not None:
            add_adapters(self, self.tuning.lora)
        if self.tuning.frozen:
            self.requires_grad_(False)
        # pretrained modules arrive in evaluation mode, and Lightning keeps the mode it finds
        self.train()

    def _with_zero_gradients(self, features: Features) -> Features:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        pooled, tokens = _ZeroGradients.apply(features.pooled, features.tokens, *parameters)
        return Features(pooled, tokens, features.mask)


def hash_of_weights(module: nn.Module, settings: str) -> str:
    """A hash of a module's parameters and buffers, and of settings that tell it from others with the same ones."""
    digest = hashlib.sha256(settings.encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _ZeroGradients(torch.autograd.Function):
    """Gives two tensors on as they are, and zeros to parameters that had no part in them."""

    @staticmethod
    def forward(ctx: FunctionCtx, pooled: Tensor, tokens: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*parameters)
        return pooled.view_as(pooled), tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *map(torch.zeros_like, ctx.saved_tensors)
