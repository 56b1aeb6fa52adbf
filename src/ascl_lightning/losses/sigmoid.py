"""The sigmoid loss of SigLIP: each pair of the batch is a binary classification."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ascl_lightning.losses.base import ContrastiveLoss, PairScores
from ascl_lightning.losses.info_nce import Direction, both_directions
from ascl_lightning.losses.temperature import Temperature


class SigmoidLoss(ContrastiveLoss):
    """-log sigmoid(z (s / tau + b)), summed over the texts of an image, with z = 1 for its own text and -1 for others.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2. It needs no softmax
    over the batch, so each pair counts once. Other texts of the same image are ignored, and so are perturbed texts.

    Args:
        temperature: Divisor of the similarities; its initial value if it is learned.
        bias: Initial value of the learned bias b; a negative one offsets that most pairs do not belong together.
        learn_temperature: Make the temperature a parameter, kept in [0.01, 1].

    Raises:
        ValueError: If the temperature is not positive, or is learned and starts outside its bounds.

    Example:
        >>> loss = SigmoidLoss(temperature=1.0, bias=0.0)
        >>> (loss(PairScores(torch.zeros(3, 3))) / 3).exp().round(decimals=4).item()  # 3 texts, each with -log 0.5
        2.0
    """

    temperature: Temperature
    uses_negatives: bool = False

    def __init__(self, temperature: float = 0.1, bias: float = -10.0, learn_temperature: bool = True) -> None:
        super().__init__(temperature, learn_temperature)
        # one element and not a scalar, which FSDP2 cannot split over processes
        self.bias = nn.Parameter(torch.tensor([bias]))

    def forward(self, scores: PairScores) -> Float[Tensor, ""]:
        """Mean over images of the sum over texts."""
        images, _ = both_directions(scores)
        return images.mean(partial(self._terms, temperature=self.temperature()))

    def _terms(self, rows: Direction, temperature: Float[Tensor, ""]) -> Float[Tensor, " R"]:
        logits = rows.similarity / temperature + self.bias
        signs = torch.full_like(logits, -1.0).scatter(1, rows.targets[:, None], 1.0)
        terms = F.softplus(-signs * logits)
        if rows.masked is not None:
            terms = terms.masked_fill(rows.masked, 0.0)
        return terms.sum(1)
