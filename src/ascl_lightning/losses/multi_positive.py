"""InfoNCE in which all texts of an image are its positives."""

from jaxtyping import Float
from torch import Tensor

from ascl_lightning.losses.info_nce import Direction, InfoNCE


class MultiPositiveInfoNCE(InfoNCE):
    """The mean of -log softmax over all texts of an image in the batch, and likewise over the pictures of a text.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (the sum outside the logarithm),
    with images as classes. `InfoNCE` takes other texts of an image out of the denominator instead. It ignores
    perturbed texts.

    The arguments are those of `InfoNCE`.

    Example:
        >>> import torch
        >>> from ascl_lightning.losses import PairScores
        >>> loss = MultiPositiveInfoNCE(temperature=1.0, learn_temperature=False)
        >>> loss(PairScores(torch.zeros(4, 4), image_ids=torch.tensor([0, 0, 1, 2]))).exp().round().item()
        4.0
    """

    def _terms(self, rows: Direction, temperature: Float[Tensor, ""]) -> Float[Tensor, " R"]:
        log_shares = (rows.similarity / temperature).log_softmax(1)
        own = log_shares.gather(1, rows.targets[:, None])[:, 0]
        if rows.masked is None:
            return -own
        others = log_shares.masked_fill(~rows.masked, 0.0).sum(1)
        return -(own + others) / (1 + rows.masked.sum(1))
