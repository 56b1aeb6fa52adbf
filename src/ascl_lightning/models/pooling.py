"""Learned pooling of local tokens to a global vector."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ascl_lightning.errors import UserError
from ascl_lightning.models.similarity.tokens import scoring_dtype
from ascl_lightning.runtime.number_types import PositiveFloat, PositiveInt


class GeneralizedPooling(nn.Module):
    """Weighted mean of sorted features: the generalized pooling operator (GPO) of VSE-infinity.

    Source: Chen et al., "Learning the Best Pooling Strategy for Visual Semantic Embedding", CVPR 2021, arXiv
    2011.04305, section 3. The N values of each feature dimension are sorted in descending order, and the k-th largest
    gets the weight `theta_k`. The weights sum to 1 and depend on k and N only; a bidirectional GRU generates them from
    encodings of the positions 1 to N. Mean, maximum and mean of the k largest values are special cases.

    Args:
        position_dim: Width of the position encodings, an even number.
        hidden_dim: Width of the GRU.
        temperature: Divides the logits of the weights; 0.1 as in the published code.

    Raises:
        UserError: If `position_dim` is odd or a number is not positive.

    Example:
        >>> pool = GeneralizedPooling()
        >>> _ = nn.init.zeros_(pool.logit.weight)  # equal weights: the mean
        >>> pool(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]], grad_fn=<SumBackward1>)
    """

    def __init__(
        self, position_dim: PositiveInt = 32, hidden_dim: PositiveInt = 32, temperature: PositiveFloat = 0.1
    ) -> None:
        super().__init__()
        if position_dim < 2 or position_dim % 2:
            raise UserError(f"position_dim is {position_dim}; give an even number from 2")
        if hidden_dim < 1 or not temperature > 0:
            raise UserError(f"hidden_dim is {hidden_dim} and temperature {temperature}; give positive numbers")
        self.temperature = temperature
        self.gru = nn.GRU(position_dim, hidden_dim, batch_first=True, bidirectional=True)
        # without bias, which a softmax ignores
        self.logit = nn.Linear(hidden_dim, 1, bias=False)
        self._table: Tensor | None = None

    def forward(self, tokens: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Pools the tokens of each item, in float32 or float64; zero for an item without tokens.

        Args:
            tokens: Projected tokens, not normalised, (B, T, D).
            mask: True for real tokens, (B, T).
        """
        with torch.autocast(tokens.device.type, enabled=False):
            counts = mask.sum(1)
            values = tokens.to(scoring_dtype(tokens)).masked_fill(~mask[..., None], -torch.inf)
            in_order = values.sort(1, descending=True).values
            is_real = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
            in_order = in_order.masked_fill(~is_real[..., None], 0.0)
            weights = self._weights_of(counts.clamp_min(1), tokens)
            return (in_order * weights[..., None].to(in_order.dtype)).sum(1)

    @contextmanager
    def tabulated(self, longest: int) -> Iterator[None]:
        """Looks weights up in a table within the context, for graphs that cannot run the GRU for a variable length.

        Args:
            longest: Most tokens of an item.
        """
        with torch.no_grad():
            self._table = self.weights(torch.arange(1, longest + 1, device=self.logit.weight.device), longest)
        try:
            yield
        finally:
            self._table = None

    def weights(self, lengths: Int[Tensor, " U"], width: int) -> Float[Tensor, "U T"]:
        """The weights `theta` for items of these numbers of tokens, padded with zeros to `width`."""
        positions = self._positions(int(lengths.max())).expand(len(lengths), -1, -1)
        packed = pack_padded_sequence(positions, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=width)
        logits = self.logit(sum(states.chunk(2, -1)) / 2)[..., 0] / self.temperature
        is_position = torch.arange(width, device=lengths.device) < lengths[:, None]
        return logits.masked_fill(~is_position, -torch.inf).softmax(-1)

    def _weights_of(self, counts: Int[Tensor, " B"], tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
        """The weights for each item, which has `counts` real tokens."""
        if self._table is not None:
            return self._table[counts - 1, : tokens.shape[1]]
        lengths, of_item = counts.unique(return_inverse=True)
        return self.weights(lengths, tokens.shape[1])[of_item]

    def _positions(self, count: int) -> Float[Tensor, "1 N P"]:
        """Sines and cosines of the positions 1 to `count` (Vaswani et al. 2017, section 3.5)."""
        like = self.logit.weight
        positions = torch.arange(1, count + 1, dtype=like.dtype, device=like.device)
        half = self.gru.input_size // 2
        rates = torch.exp(torch.arange(half, dtype=like.dtype, device=like.device) * (-math.log(10_000) / half))
        angles = positions[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)[None]
