"""Type I negatives on word features: T-, a text with a wrong detail, made after the encoder's projection.

Source: AsCL (arXiv 2405.10029) and the code of its follow-up: noise, dropout, zeroing. The shuffle of word features
that is published with them is left out: scores do not depend on the order of words, so T- would equal T and the loss
could learn nothing from it. (The published one differs only because it mixes padding into the words.) Words are
shuffled before the text encoder, where order is seen.

Every number is a hash of a sample's key and of the number's position: it does not depend on the rest of the batch, on
padding or on the device, and needs no generator per sample.
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


class Stream(IntEnum):
    """Independent series of numbers under one key."""

    OPERATION = 0
    WORDS = 1
    POOLED = 2
    KIND = 3
    INDEX = 4


@dataclass(frozen=True)
class WordPerturbation(ABC):
    """Puts a wrong detail into projected word features.

    It need not spare padding: `PerturbWords` does. A subclass sets `name` and says in its docstring what it changes.

    Args:
        probability: Share among the operations of its list; the shares need not sum to one.

    Raises:
        UserError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise UserError(
                f"the probability of the word perturbation {self.name!r} is {self.probability}; "
                f"give a positive number, or take the operation out of its list"
            )

    @abstractmethod
    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """Perturbed features of B texts; all draws derive from `keys`."""


@dataclass(frozen=True)
class GaussianNoise(WordPerturbation):
    """Adds normal noise to every feature of the words, and of the global vector.

    Args:
        probability: Share among the operations of its list.
        std: Standard deviation; 1 as published.
    """

    name: ClassVar[str] = "gaussian_noise"
    std: NonNegativeFloat = 1.0

    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """See `WordPerturbation`."""
        word_noise = self.std * keyed_normal(keys, tuple(text.tokens.shape[1:]), Stream.WORDS)
        pooled_noise = self.std * keyed_normal(keys, tuple(text.pooled.shape[1:]), Stream.POOLED)
        pooled = text.pooled + pooled_noise.to(text.pooled.dtype)
        return Features(pooled, text.tokens + word_noise.to(text.tokens.dtype), text.mask)


@dataclass(frozen=True)
class FeatureDropout(WordPerturbation):
    """Sets features of the words, and of the global vector, to zero at random and scales the rest by 1 / (1 - p).

    Args:
        probability: Share among the operations of its list.
        p: Probability of each feature to be dropped; 0.5 as published.

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
        pooled = self._drop(text.pooled, keys, Stream.POOLED)
        return Features(pooled, self._drop(text.tokens, keys, Stream.WORDS), text.mask)

    def _drop(self, features: Tensor, keys: Tensor, stream: Stream) -> Tensor:
        dropped = keyed_uniform(keys, tuple(features.shape[1:]), stream) < self.p
        return (features / (1 - self.p)).masked_fill(dropped, 0.0)


@dataclass(frozen=True)
class ZeroOut(WordPerturbation):
    """Sets one random word, or one random feature dimension of all words, to zero, with equal chance.

    The dimension is zeroed in the global vector as well; a lost word leaves that vector as it is, for nobody knows what
    the encoder would have made of the rest.
    """

    name: ClassVar[str] = "zero_out"

    def __call__(self, text: Features, keys: Int[Tensor, " B"]) -> Features:
        """See `WordPerturbation`."""
        whole_word = keyed_uniform(keys, (1,), Stream.KIND) < 0.5
        share = keyed_uniform(keys, (1,), Stream.INDEX)
        rank = text.mask.cumsum(1) - 1
        chosen_word = rank == (share * text.mask.sum(1, keepdim=True)).long()
        width = text.tokens.shape[2]
        chosen_dim = torch.arange(width, device=keys.device) == (share * width).long()
        word_zeros = torch.where(whole_word[..., None], chosen_word[..., None], chosen_dim[:, None])
        pooled = text.pooled.masked_fill(chosen_dim & ~whole_word, 0.0)
        return Features(pooled, text.tokens.masked_fill(word_zeros, 0.0), text.mask)


class PerturbWords(nn.Module):
    """Makes T- from projected texts: one operation for each sample, drawn from its key.

    The global vector is perturbed with the words: left as it is, it would score a wrong text as the true one wherever
    it counts (`global_fusion` `"none"`, a gated text).

    Args:
        operations: The alternatives; None for noise, dropout and zeroing with equal shares.

    Raises:
        UserError: If `operations` is empty.
    """

    thresholds: Tensor

    def __init__(self, operations: Sequence[WordPerturbation] | None = None) -> None:
        super().__init__()
        self.operations = (GaussianNoise(), FeatureDropout(), ZeroOut()) if operations is None else tuple(operations)
        if not self.operations:
            raise UserError("the list of word perturbations is empty; name at least one, or do without PerturbWords")
        *sums, total = accumulate(operation.probability for operation in self.operations)
        self.register_buffer("thresholds", torch.tensor([part / total for part in sums]), persistent=False)

    def forward(self, text: Features, keys: Int[Tensor, " B"]) -> tuple[Features, Bool[Tensor, " B"]]:
        """Perturbs the words of each text.

        Args:
            text: Projected features of B texts, pooled (B, D) and tokens (B, L, D).
            keys: One key for each text, (B,); texts with the same key get the same draws.

        Returns:
            T- with the mask and the padding of T, and whether any word of T- differs from T's, (B,); where none does
            (it was zero already), T- must not count as a negative.
        """
        choice = torch.bucketize(keyed_uniform(keys, (), Stream.OPERATION), self.thresholds, right=True)
        pooled, words = text.pooled, text.tokens
        for index, operation in enumerate(self.operations):
            rows = torch.nonzero(choice == index).flatten()
            changed = operation(Features(text.pooled[rows], text.tokens[rows], text.mask[rows]), keys[rows])
            pooled, words = pooled.index_copy(0, rows, changed.pooled), words.index_copy(0, rows, changed.tokens)
        is_word = text.mask[..., None]
        words = torch.where(is_word, words, text.tokens)
        valid = ((words != text.tokens) & is_word).flatten(1).any(1)
        return Features(pooled, words, text.mask), valid
