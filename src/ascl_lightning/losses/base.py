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
        similarity: Float[Tensor, "B B"],
        negative_similarity: Float[Tensor, "B Q"] | None = None,
        image_ids: Integer[Tensor, " B"] | None = None,
        text_image_ids: Integer[Tensor, " B"] | None = None,
        *,
        negative_valid: Bool[Tensor, " Q"] | None = None,
    ) -> Float[Tensor, ""]:
        """Loss of a batch of pairs.

        Args:
            similarity: Row i is image i, column j is text j, (B, B).
            negative_similarity: The same images with perturbed texts T-, whoever's they are, (B, Q); None: there are
                none.
            image_ids: Image of each row, (B,): another text of the same image is no negative. None: all differ.
            text_image_ids: Image of each text, (B,); None: the same as `image_ids`.
            negative_valid: False for a T- that equals its text and counts for nothing, (Q,). None: all count.

        Returns:
            A scalar in float32 at least.
        """
