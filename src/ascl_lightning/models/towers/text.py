"""What text towers share (docs/method.md#encoders)."""

from jaxtyping import Bool, Float
from torch import Tensor

from ascl_lightning.data.batch import TextSpec, TokenizedTexts
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.tuning import Tuning


class TextEncoder(Encoder):
    """A text tower.

    Args:
        special_tokens_are_words: Treat [CLS], [SEP] and similar tokens as words, as the published code does.
        tuning: How the tower is trained.
    """

    spec: TextSpec
    """The texts that the tower takes."""

    def __init__(self, special_tokens_are_words: bool = True, tuning: Tuning = Tuning()) -> None:
        super().__init__(tuning)
        self.special_tokens_are_words = special_tokens_are_words

    def _words(self, texts: TokenizedTexts) -> Bool[Tensor, "M L"]:
        """True for tokens that count as words."""
        return texts.attention_mask if self.special_tokens_are_words else texts.attention_mask & ~texts.special_mask


def masked_mean(tokens: Float[Tensor, "M L T"], mask: Bool[Tensor, "M L"]) -> Float[Tensor, "M T"]:
    """Mean of each row's tokens where the mask is True; zero for a row without any.

    Examples:
        >>> import torch
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return tokens.masked_fill(~mask[..., None], 0.0).sum(dim=1) / counts
