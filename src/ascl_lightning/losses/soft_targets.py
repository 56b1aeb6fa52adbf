"""InfoNCE with soft targets from the similarities of texts in the text tower."""

import torch
from jaxtyping import Float
from torch import Tensor

from ascl_lightning.losses.info_nce import Direction, InfoNCE


def divergence_terms(
    rows: Direction, temperature: Float[Tensor, ""], teacher_temperature: Float[Tensor, ""] | float
) -> Float[Tensor, " R"]:
    """KL divergence of the softmax of each row from that of the teacher's scores; masked entries are in neither.

    Args:
        rows: Similarities and the teacher's scores, which get no gradient.
        temperature: Divisor of the similarities.
        teacher_temperature: Divisor of the teacher's scores.

    Returns:
        One non-negative term for each row, (R,).

    Raises:
        ValueError: If the rows have no teacher.
    """
    if rows.teacher is None:
        raise ValueError("a teacher is missing: soft targets need scores with text_to_text")
    teacher_logits, logits = rows.teacher.detach() / teacher_temperature, rows.similarity / temperature
    if rows.masked is not None:
        teacher_logits = teacher_logits.masked_fill(rows.masked, -torch.inf)
        logits = logits.masked_fill(rows.masked, -torch.inf)
    expected, found = teacher_logits.log_softmax(1), logits.log_softmax(1)
    difference = expected - found
    if rows.masked is not None:
        difference = difference.masked_fill(rows.masked, 0.0)  # of two infinities
    return (expected.exp() * difference).sum(1)


class SoftTargetInfoNCE(InfoNCE):
    """InfoNCE, plus the KL divergence of each row's softmax from that of its text's similarities with all texts.

    Source: Huang et al., "Cross-modal and Uni-modal Soft-label Alignment for Image-Text Retrieval" (CUSA), AAAI 2024,
    the cross-modal alignment. The teacher here is the text tower as it is at this step, without gradient, before the
    projection. It serves both directions, each image by its text; the paper has frozen teachers of their own for texts
    and for images, and aligns similarities within images and within texts too. Other texts of the same image are taken
    out of both softmax, and perturbed texts are ignored.

    Args:
        temperature: Divisor of the similarities; its initial value if it is learned.
        learn_temperature: Make the temperature a parameter, kept in [0.01, 1].
        weight: Weight of the divergence; that of InfoNCE is 1.
        teacher_temperature: Divisor of the text tower's cosine similarities.

    Raises:
        ValueError: If a temperature or the weight is not positive, or the temperature is learned and starts outside its
            bounds. When called, if the scores have no `text_to_text`.

    Example:
        >>> from ascl_lightning.losses import PairScores
        >>> loss = SoftTargetInfoNCE(temperature=1.0, learn_temperature=False, weight=5.0)
        >>> scores = torch.zeros(4, 4)  # the teacher agrees, so that InfoNCE is left
        >>> loss(PairScores(scores, text_to_text=torch.ones(4, 4))).exp().round().item()
        4.0
    """

    uses_text_to_text: bool = True

    def __init__(
        self,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        weight: float = 0.2,
        teacher_temperature: float = 0.1,
    ) -> None:
        super().__init__(temperature, learn_temperature)
        if weight <= 0 or teacher_temperature <= 0:
            raise ValueError(
                f"weight and teacher_temperature must be positive numbers, not {weight} and {teacher_temperature}"
            )
        self.weight = weight
        self.teacher_temperature = teacher_temperature

    def _terms(self, rows: Direction, temperature: Float[Tensor, ""]) -> Float[Tensor, " R"]:
        soft = divergence_terms(rows, temperature, self.teacher_temperature)
        return super()._terms(rows, temperature) + self.weight * soft
