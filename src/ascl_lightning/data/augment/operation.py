"""What a text operation is: it makes another text out of a caption, of one type of information asymmetry."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ascl_lightning.data.augment.caption_corpus import CaptionCorpus
from ascl_lightning.data.text import Vocabulary
from ascl_lightning.errors import UserError

AsymmetryType = Literal["I", "II", "III", "paraphrase"]
"""How a made text differs from its caption; a paraphrase has the same meaning."""


@dataclass(frozen=True)
class TextContext:
    """What an operation may use in addition to the caption.

    Args:
        siblings: All captions of the caption's image, itself included.
        vocabulary: Words mined from the training captions alone.
        corpus: Word index of the training captions.
        image: Row of the caption's image in the corpus.

    Raises:
        ValueError: If `siblings` is empty.
    """

    siblings: tuple[str, ...]
    vocabulary: Vocabulary | None = None
    corpus: CaptionCorpus | None = None
    image: int | None = None

    def __post_init__(self) -> None:
        if not self.siblings:
            raise ValueError("siblings must hold at least the caption itself")

    def corpus_for(self, operation: str) -> CaptionCorpus:
        """The corpus, which an operation needs.

        Raises:
            ValueError: If there is none.
        """
        if self.corpus is None:
            raise ValueError(f"{operation} needs the corpus of the training captions in its context")
        return self.corpus


@dataclass(frozen=True)
class TextOperation(ABC):
    """Makes a text whose information differs from its caption's.

    A subclass is a frozen dataclass that sets `name` and `type` and names its source in the docstring. It has no
    state and draws only from the given generator.

    Args:
        probability: Relative weight among the operations of its list; the weights need not sum to one.

    Raises:
        UserError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    type: ClassVar[AsymmetryType]
    needs_corpus: ClassVar[bool] = False
    """Whether it needs `TextContext.corpus`."""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise UserError(
                f"the probability of the text operation {self.name!r} is {self.probability}; "
                f"give a positive number, or remove the operation from its list"
            )

    @abstractmethod
    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Make a text.

        Args:
            caption: Cleaned words, separated by single spaces.
            context: The image's captions, also cleaned, and the vocabulary.
            rng: Source of all draws.

        Returns:
            The new text; the caption itself if the operation cannot change it.
        """
