"""Type I negatives T- from word features: perturbations applied after the text projection.

Source: AsCL (arXiv 2405.10029) and the code of its follow-up: noise, dropout, zeroing. Their shuffle of word features
is not implemented: scores do not depend on the order of words, so T- would equal T and the loss would learn nothing.
(The published one has an effect only because it moves padding between the words.) `ShuffleWords` shuffles the words
before the text encoder, which does see the order.

Each random number is a hash of the sample's key and the number's position. It does not depend on the rest of the batch,
on padding or on the device.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ascl_lightning.data.batch import Features
from ascl_lightning.errors import UserError
from ascl_lightning.runtime.draws import keyed_normal, keyed_uniform
from ascl_lightning.runtime.number_types import NonNegativeFloat


class NoiseStream(IntEnum):
    """Independent series of random numbers of one key."""

    OPERATION = 0
    WORDS = 1
    POOLED = 2
    KIND = 3
    INDEX = 4


@dataclass(frozen=True)
class WordPerturbation(ABC):
    """Perturbs projected word features.

    Operations may change padding; `PerturbWords` restores it. A subclass sets `name`.

    Args:
        probability: Relative frequency among the operations of the list; they need not sum to one.

    Raises:
        UserError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise UserError(
                f"the probability of the word perturbation {self.name!r} is {self.probability}; "
                f"give a positive number, or remove the operation from the list"
            )

    @abstractmethod
    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """Perturbed features of B texts; all random numbers derive from `keys`."""


@dataclass(frozen=True)
class GaussianNoise(WordPerturbation):
    """Adds Gaussian noise to all features of the words and of the global vector.

    Args:
        probability: Relative frequency among the operations of the list.
        std: Standard deviation; 1 as published.
    """

    name: ClassVar[str] = "gaussian_noise"
    std: NonNegativeFloat = 1.0

    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """See `WordPerturbation`."""
        word_noise = self.std * keyed_normal(keys, tuple(text.tokens.shape[1:]), NoiseStream.WORDS)
        pooled_noise = self.std * keyed_normal(keys, tuple(text.pooled.shape[1:]), NoiseStream.POOLED)
        pooled = text.pooled + pooled_noise.to(text.pooled.dtype)
        return Features(pooled, text.tokens + word_noise.to(text.tokens.dtype), text.mask)


@dataclass(frozen=True)
class FeatureDropout(WordPerturbation):
    """Dropout on the features of the words and of the global vector; the rest is scaled by 1 / (1 - p).

    Args:
        probability: Relative frequency among the operations of the list.
        p: Dropout probability; 0.5 as published.

    Raises:
        UserError: If `p` is outside [0, 1).
    """

    name: ClassVar[str] = "feature_dropout"
    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise UserError(f"p of the word perturbation {self.name!r} is {self.p}; give a number in [0, 1)")

    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """See `WordPerturbation`."""
        pooled = self._drop(text.pooled, keys, NoiseStream.POOLED)
        return Features(pooled, self._drop(text.tokens, keys, NoiseStream.WORDS), text.mask)

    def _drop(self, features: Tensor, keys: Tensor, stream: NoiseStream) -> Tensor:
        dropped = keyed_uniform(keys, tuple(features.shape[1:]), stream) < self.p
        return (features / (1 - self.p)).masked_fill(dropped, 0.0)


@dataclass(frozen=True)
class ZeroOut(WordPerturbation):
    """Sets either one random word or one random feature dimension of all words to zero, with equal probability.

    A dimension is also zeroed in the global vector. A zeroed word does not change the global vector, because the
    encoder's output for the other words alone is not known.
    """

    name: ClassVar[str] = "zero_out"

    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """See `WordPerturbation`."""
        whole_word = keyed_uniform(keys, (1,), NoiseStream.KIND) < 0.5
        share = keyed_uniform(keys, (1,), NoiseStream.INDEX)
        rank = text.mask.cumsum(1) - 1
        chosen_word = rank == (share * text.mask.sum(1, keepdim=True)).long()
        width = text.tokens.shape[2]
        chosen_dim = torch.arange(width, device=keys.device) == (share * width).long()
        word_zeros = torch.where(whole_word[..., None], chosen_word[..., None], chosen_dim[:, None])
        pooled = text.pooled.masked_fill(chosen_dim & ~whole_word, 0.0)
        return Features(pooled, text.tokens.masked_fill(word_zeros, 0.0), text.mask)


class PerturbWords(nn.Module):
    """Makes T- from projected texts with one random operation per sample, drawn from its key.

    The global vector is perturbed too: otherwise T- would get the score of T where global vectors are compared
    (`global_fusion` `"none"`, or a gated text).

    Args:
        operations: Operations to choose from; None: noise, dropout and zeroing, equally often.

    Raises:
        UserError: If `operations` is empty.
    """

    thresholds: Tensor

    def __init__(self, operations: Sequence[WordPerturbation] | None = None) -> None:
        super().__init__()
        self.operations = (GaussianNoise(), FeatureDropout(), ZeroOut()) if operations is None else tuple(operations)
        if not self.operations:
            raise UserError("the list of word perturbations is empty; give at least one, or set word_features to null")
        *sums, total = accumulate(operation.probability for operation in self.operations)
        self.register_buffer("thresholds", torch.tensor([part / total for part in sums]), persistent=False)

    def forward(self, text: Features, keys: Int[Tensor, " B"]) -> tuple[Features, Bool[Tensor, " B"]]:
        """Perturbs the words of each text.

        Args:
            text: Projected features of B texts, pooled (B, D) and tokens (B, L, D).
            keys: One key per text, (B,); texts with the same key get the same random numbers.

        Returns:
            T-, with the mask and the padding of T, and whether any word of T- differs from T, (B,). A T- that equals T
            (the zeroed word was zero) must not be used as a negative.
        """
        choice = torch.bucketize(keyed_uniform(keys, (), NoiseStream.OPERATION), self.thresholds, right=True)
        pooled, words = text.pooled, text.tokens
        for index, operation in enumerate(self.operations):
            rows = torch.nonzero(choice == index).flatten()
            changed = operation(Features(text.pooled[rows], text.tokens[rows], text.mask[rows]), keys[rows])
            pooled, words = pooled.index_copy(0, rows, changed.pooled), words.index_copy(0, rows, changed.tokens)
        is_word = text.mask[..., None]
        words = torch.where(is_word, words, text.tokens)
        valid = ((words != text.tokens) & is_word).flatten(1).any(1)
        return Features(pooled, words, text.mask), valid
