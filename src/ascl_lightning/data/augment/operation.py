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
"""How a made sample differs; a paraphrase says the same in other words."""


@dataclass(frozen=True)
class TextContext:
    """What operations may know beside the caption itself.

    Args:
        siblings: All captions of the caption's image, itself included.
        vocabulary: Words mined from the training captions alone.
        corpus: The training captions by their words.
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


@dataclass(frozen=True)
class TextOperation(ABC):
    """Makes a text that carries other information than its caption.

    A subclass is a frozen dataclass that sets `name` and `type` and says in its docstring where it comes from. It keeps
    no state between calls and draws from the given generator alone.

    Args:
        probability: Share among the operations of its list; the shares need not sum to one.

    Raises:
        UserError: If `probability` is not a positive number.
    """

    name: ClassVar[str]
    type: ClassVar[AsymmetryType]
    needs_corpus: ClassVar[bool] = False
    """Whether it looks for captions of other images."""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.probability < math.inf:
            raise UserError(
                f"the probability of the text operation {self.name!r} is {self.probability}; "
                f"give a positive number, or take the operation out of its list"
            )

    @abstractmethod
    def __call__(self, caption: str, context: TextContext, rng: np.random.Generator) -> str:
        """Make a text.

        Args:
            caption: Cleaned words, separated by single spaces.
            context: The image's captions, cleaned likewise, and the vocabulary.
            rng: Where all draws come from.

        Returns:
            The new text; the caption itself where the operation cannot change it.
        """
