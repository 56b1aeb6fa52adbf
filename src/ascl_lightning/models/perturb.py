"""Type I on word features: T- made after the text projection (AsCL, section III-A; METHOD section 1).

The published fourth operation, shuffling the words' features, is not here: every score is a sum over words, so a
shuffled T- would score exactly as T. Words are shuffled before the text encoder instead (`data/asymmetry.py`).

Draws come from a counter-based hash of each row's key, so that a row meets the same noise whatever batch, rank or
device it is on.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ascl_lightning.data.batch import Features

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
# half a step above a multiple of 2^-23 is exact in float32, and so never rounds to 1
_UNIT = 2**23

# one stream for each decision, so that none of them moves another
_OPERATION, _NOISE, _DROP, _KIND, _WORD, _DIMENSION = range(6)


def keyed_uniform(keys: Int[Tensor, " B"], count: int, stream: int) -> Float[Tensor, "B C"]:
    """Numbers in (0, 1) that depend on key, position and stream alone.

    Args:
        keys: One key a row, (B,).
        count: Numbers a row.
        stream: Distinguishes independent draws under one key.

    Returns:
        float32, 23 bits each, (B, C); the first c of C numbers are those of a smaller count.
    """
    return _to_unit(_bits(keys, count, stream) >> 40)


def keyed_normal(keys: Int[Tensor, " B"], count: int, stream: int) -> Float[Tensor, "B C"]:
    """Standard normal numbers, keyed as in `keyed_uniform` (Box and Muller 1958); none lies beyond 6."""
    bits = _bits(keys, count, stream)
    radius = (-2 * _to_unit(bits >> 40).log()).sqrt()
    return radius * (2 * math.pi * _to_unit(bits)).cos()


def _to_unit(bits: Tensor) -> Tensor:
    """The lowest 23 bits as a number in (0, 1)."""
    return ((bits & (_UNIT - 1)).float() + 0.5) / _UNIT


def _bits(keys: Tensor, count: int, stream: int) -> Tensor:
    """64 random bits for each row and position, (B, C): SplitMix64 (Steele, Lea and Flood 2014), seeded by the row."""
    rows = _mix(_mix(keys) + stream)
    return _mix(rows[:, None] + torch.arange(1, count + 1, device=keys.device) * _GOLDEN)


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift(state, 30)) * _FIRST_FACTOR
    state = (state ^ _shift(state, 27)) * _SECOND_FACTOR
    return state ^ _shift(state, 31)


def _shift(state: Tensor, places: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (state >> places) & (2 ** (64 - places) - 1)


@dataclass(frozen=True)
class FeatureOperation(ABC):
    """Makes vectors that fit their image a little less.

    Args:
        probability: Share among the operations of its list; the shares need not sum to one.

    Raises:
        ValueError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise ValueError(f"the probability of {self.name} is {self.probability}, but must be a positive number")

    @abstractmethod
    def __call__(
        self, vectors: Float[Tensor, "B V D"], mask: Bool[Tensor, "B V"], keys: Int[Tensor, " B"]
    ) -> Float[Tensor, "B V D"]:
        """Change the vectors of each row by draws from its key.

        Args:
            vectors: The text's global vector, then its words, (B, 1 + L, D).
            mask: True for the global vector and for real words, (B, 1 + L); what is changed elsewhere is discarded.
            keys: One key a row, (B,).
        """


@dataclass(frozen=True)
class GaussianNoise(FeatureOperation):
    """Adds standard Gaussian noise to every vector (METHOD section 1)."""

    name: ClassVar[str] = "gaussian_noise"

    def __call__(
        self, vectors: Float[Tensor, "B V D"], mask: Bool[Tensor, "B V"], keys: Int[Tensor, " B"]
    ) -> Float[Tensor, "B V D"]:
        """See `FeatureOperation`."""
        return vectors + keyed_normal(keys, vectors[0].numel(), _NOISE).view_as(vectors).to(vectors.dtype)


@dataclass(frozen=True)
class FeatureDropout(FeatureOperation):
    """Sets every number to zero with probability 1/2 and doubles the others, as dropout does (METHOD section 1)."""

    name: ClassVar[str] = "feature_dropout"

    def __call__(
        self, vectors: Float[Tensor, "B V D"], mask: Bool[Tensor, "B V"], keys: Int[Tensor, " B"]
    ) -> Float[Tensor, "B V D"]:
        """See `FeatureOperation`."""
        keep = keyed_uniform(keys, vectors[0].numel(), _DROP).view_as(vectors) < 0.5
        return torch.where(keep, 2 * vectors, 0.0)


@dataclass(frozen=True)
class ZeroOut(FeatureOperation):
    """Sets one random word, or one random feature dimension of all vectors, to zero, with equal chance (METHOD section 1).

    A zeroed word leaves the global vector as it is: the encoder has already read the word into it.
    """

    name: ClassVar[str] = "zero_out"

    def __call__(
        self, vectors: Float[Tensor, "B V D"], mask: Bool[Tensor, "B V"], keys: Int[Tensor, " B"]
    ) -> Float[Tensor, "B V D"]:
        """See `FeatureOperation`."""
        _, num_vectors, width = vectors.shape
        is_word = mask.clone()
        is_word[:, 0] = False
        # the largest of independent uniform draws lies at every word with equal chance
        draws = keyed_uniform(keys, num_vectors, _WORD).masked_fill(~is_word, 0.0)
        word = torch.arange(num_vectors, device=keys.device) == draws.argmax(1, keepdim=True)
        drawn = (keyed_uniform(keys, 1, _DIMENSION) * width).long()
        dimension = torch.arange(width, device=keys.device) == drawn
        by_word = keyed_uniform(keys, 1, _KIND)[..., None] < 0.5
        zeroed = torch.where(by_word, (word & is_word)[..., None], dimension[:, None])
        return vectors.masked_fill(zeroed, 0.0)


class PerturbWords(nn.Module):
    """T-: each text's word features changed by one operation, drawn by its probability.

    Args:
        operations: What may happen to a text.

    Raises:
        ValueError: If there is no operation.
    """

    def __init__(
        self, operations: Sequence[FeatureOperation] = (GaussianNoise(), FeatureDropout(), ZeroOut())
    ) -> None:
        super().__init__()
        if not operations:
            raise ValueError("word_features needs at least one operation; leave it out for no T- on word features")
        self.operations = tuple(operations)

    def forward(self, texts: Features, keys: Int[Tensor, " B"]) -> tuple[Features, Bool[Tensor, " B"]]:
        """Perturb a batch of texts.

        Args:
            texts: Projected texts, pooled (B, D), tokens (B, L, D).
            keys: One key a text, (B,).

        Returns:
            The perturbed texts, padding as it was, and False for each text that no draw changed (B,).
        """
        vectors = torch.cat([texts.pooled[:, None], texts.tokens], 1)
        mask = torch.cat([torch.ones_like(texts.mask[:, :1]), texts.mask], 1)
        shares = torch.tensor([operation.probability for operation in self.operations], device=keys.device)
        bounds = shares.cumsum(0) / shares.sum()
        chosen = (keyed_uniform(keys, 1, _OPERATION) > bounds[:-1]).sum(1)
        perturbed = vectors
        for number, operation in enumerate(self.operations):
            affected = (chosen == number)[:, None] & mask
            perturbed = torch.where(affected[..., None], operation(vectors, mask, keys), perturbed)
        valid = (perturbed != vectors).flatten(1).any(1)
        return Features(perturbed[:, 0], perturbed[:, 1:], texts.mask), valid
