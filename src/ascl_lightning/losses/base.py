"""How every loss of this package is called."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from ascl_lightning.losses.temperature import Temperature


class ContrastiveLoss(nn.Module, ABC):
    """A loss on the similarities of a batch of pairs.

    Args:
        temperature: What similarities are divided by, at the start if it is learned.
        learn_temperature: Whether the temperature is a parameter, kept in [0.01, 1].

    Raises:
        ValueError: If the temperature is not positive, or is learned and outside its bounds.
    """

    uses_negatives: bool
    """Whether perturbed texts change the loss; where not, nobody needs to score them."""

    def __init__(self, temperature: float, learn_temperature: bool) -> None:
        super().__init__()
        self.temperature = Temperature(temperature, learned=learn_temperature)

    @abstractmethod
    def forward(
        self,
        similarity: Float[Tensor, "b B"],
        negative_similarity: Float[Tensor, "b Q"] | None = None,
        image_ids: Integer[Tensor, " B"] | None = None,
        *,
        negative_valid: Bool[Tensor, " Q"] | None = None,
        text_similarity: Float[Tensor, "b B"] | None = None,
        targets: Integer[Tensor, " b"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of b of the B pairs of a batch: of all of them, or of those of one process.

        Args:
            similarity: Row i is image i of b, column j is text j of all, (b, B).
            negative_similarity: The same images with perturbed texts T-, whoever's they are, (b, Q); None: there are
                none.
            image_ids: Image of each pair, (B,): another text of the same image is no negative. None: all differ.
            negative_valid: False for a T- that equals its text and counts for nothing, (Q,). None: all count.
            text_similarity: Row j is text j of b, column i is image i of all, (b, B). None: b is B, and this is the
                transposed `similarity`.
            targets: Column of each row's positive, (b,). None: b is B, and row i belongs to column i.

        Returns:
            The mean over rows of both directions, a scalar in float32 at least.

        Raises:
            ValueError: If b is not B, and `text_similarity` or `targets` is missing.
        """
