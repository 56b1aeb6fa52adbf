"""The interface of all losses."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from ascl_lightning.losses.temperature import Temperature


@dataclass(frozen=True)
class PairScores:
    """Similarities of b of the B pairs of a batch: of all pairs, or of those of one rank.

    Args:
        similarity: Row i is image i of the b, column j is text j of all B, (b, B).
        negatives: The same images with perturbed texts T-, which may belong to any pair, (b, Q); None: no T-.
        negative_valid: False for a T- that equals its text and is ignored, (Q,); None: all count.
        image_ids: Image of each pair, (B,): other texts of the same image are not negatives. None: all images differ.
        text_similarity: Row j is text j of the b, column i is image i of all B, (b, B).
        targets: Column of each row's positive, (b,). `text_similarity` and `targets` may only be None if b is B: they
            are then the transposed `similarity` and the diagonal.
        text_to_text: Row i is text i of the b, column j is text j of all B: their similarity in the text tower, (b, B).
            It gets no gradient. None: not computed, see `ContrastiveLoss.uses_text_to_text`.

    Raises:
        ValueError: If one of `text_similarity` and `targets` is given without the other, or both are missing and b is
            not B.
    """

    similarity: Float[Tensor, "b B"]
    negatives: Float[Tensor, "b Q"] | None = None
    negative_valid: Bool[Tensor, " Q"] | None = None
    image_ids: Integer[Tensor, " B"] | None = None
    text_similarity: Float[Tensor, "b B"] | None = None
    targets: Integer[Tensor, " b"] | None = None
    text_to_text: Float[Tensor, "b B"] | None = None

    def __post_init__(self) -> None:
        given = [part is not None for part in (self.text_similarity, self.targets)]
        num_rows, num_columns = self.similarity.shape
        if any(given) != all(given) or (num_rows != num_columns and not all(given)):
            raise ValueError(f"{num_rows} x {num_columns} similarities need both text_similarity and targets")


class ContrastiveLoss(nn.Module, ABC):
    """A loss on the similarities of a batch of pairs.

    Args:
        temperature: Divisor of the similarities; its initial value if it is learned. None: the loss has none.
        learn_temperature: Make the temperature a parameter, kept in [0.01, 1].

    Raises:
        ValueError: If the temperature is not positive, or is learned and starts outside its bounds.
    """

    temperature: Temperature | None
    uses_negatives: bool
    """Whether T- change the loss; if not, nothing needs to score them."""
    uses_text_to_text: bool = False
    """Whether similarities of texts in the text tower change the loss; if not, nothing needs to compute them."""

    def __init__(self, temperature: float | None, learn_temperature: bool = False) -> None:
        super().__init__()
        self.temperature = None if temperature is None else Temperature(temperature, learned=learn_temperature)

    @abstractmethod
    def forward(self, scores: PairScores) -> Float[Tensor, ""]:
        """The loss of a batch: each direction is averaged over its rows.

        `AsymmetricContrastiveLoss` adds the two directions, `InfoNCE` averages them.

        Returns:
            A scalar in float32 or float64.
        """
