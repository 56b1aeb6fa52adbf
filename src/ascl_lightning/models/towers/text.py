"""What text towers share (docs/method.md#encoders)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts, map_tensors
from ascl_lightning.models.towers.base import Encoder
from ascl_lightning.models.towers.tuning import Tuning

_TOKENS_PER_CALL = 64
"""A call of a tower takes about as long as this many tokens: it starts kernels, and adds to every weight's gradient."""


class TextEncoder(Encoder):
    """A text tower.

    In training on a CPU, it encodes a batch in groups of texts of similar length, each without its padding. Features
    and gradients are those of the whole batch, up to rounding; features of padding are zero.

    Args:
        special_tokens_are_words: Treat [CLS], [SEP] and similar tokens as words, as the published code does.
        tuning: How the tower is trained.
    """

    spec: TextSpec
    """The texts that the tower takes."""
    groups_by_length: bool = True
    """Whether training may encode a batch in groups; False if features of a text depend on other texts, if texts are
    padded to a fixed length, or if all ranks must call the tower equally often."""

    def __init__(self, special_tokens_are_words: bool = True, tuning: Tuning = Tuning()) -> None:
        super().__init__(tuning)
        self.special_tokens_are_words = special_tokens_are_words
        self.stored_settings = "" if special_tokens_are_words else "special tokens are no words"

    def forward(self, inputs: TokenizedTexts | Features) -> Features:
        """See `Encoder.forward`."""
        encode = super().forward
        mask = inputs.mask if isinstance(inputs, Features) else inputs.attention_mask
        if not self._may_group(mask.device):
            return encode(inputs)
        lengths = mask.sum(dim=1)
        order = lengths.argsort(stable=True)
        # they depend on the batch alone, so a resumed training is exact
        groups = order.split(group_sizes(lengths))
        if len(groups) < 2:
            return encode(inputs)
        parts = [encode(_without_padding(inputs, rows, int(lengths[rows[-1]]))) for rows in groups]
        places = order.argsort()
        return map_tensors(Features.join(parts), lambda tensor: tensor.index_select(0, places))

    def _may_group(self, device: torch.device) -> bool:
        # A GPU would have to finish all queued work before lengths can be read, and a compiled tower would be compiled
        # for more shapes. Evaluation sorts texts by length already, and its features must not depend on the batch.
        if not self.training or not self.groups_by_length or torch.compiler.is_compiling() or device.type != "cpu":
            return False
        # batch statistics would be those of a group
        return not any(isinstance(module, _BatchNorm) for module in self.modules())

    def _words(self, texts: TokenizedTexts) -> Bool[Tensor, "M L"]:
        """True for tokens that count as words."""
        return texts.attention_mask if self.special_tokens_are_words else texts.attention_mask & ~texts.special_mask


def group_sizes(lengths: Int[Tensor, " M"]) -> list[int]:
    """Sizes of the groups of texts, sorted by length, that a tower encodes in the least time.

    The time is estimated as the number of tokens, padding to the longest text of a group included, plus a constant
    number of tokens for each group.

    Examples:
        >>> group_sizes(torch.tensor([3, 100, 3, 3]))
        [3, 1]
        >>> group_sizes(torch.tensor([3, 10, 3, 3]))
        [4]
    """
    distinct, counts = lengths.unique(return_counts=True)
    ends = [0, *counts.cumsum(dim=0).tolist()]  # where a group of sorted texts may end: before a longer text
    costs, starts = [0], [0]  # of the best groups up to each end, and where the last of them starts
    for length, end in zip(distinct.tolist(), ends[1:], strict=True):
        choices = zip(costs, ends[: len(costs)], strict=True)
        cost, start = min((before + (end - start) * length + _TOKENS_PER_CALL, start) for before, start in choices)
        costs.append(cost)
        starts.append(start)
    sizes, end = [], len(lengths)
    while end > 0:
        start = starts[ends.index(end)]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


def _without_padding(
    texts: TokenizedTexts | Features, rows: Int[Tensor, " G"], longest: int
) -> TokenizedTexts | Features:
    """Some texts, up to a length but at least one token; stored activations have no global vector to cut off."""
    return map_tensors(texts, lambda tensor: tensor[rows, : max(longest, 1)])


def masked_mean(tokens: Float[Tensor, "M L T"], mask: Bool[Tensor, "M L"]) -> Float[Tensor, "M T"]:
    """Mean of each row's tokens where the mask is True; zero for a row without any.

    Examples:
        >>> import torch
        >>> masked_mean(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    counts = mask.sum(dim=1, keepdim=True).clamp(min=1)
    return tokens.masked_fill(~mask[..., None], 0.0).sum(dim=1) / counts
