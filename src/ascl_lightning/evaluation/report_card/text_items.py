"""Texts that are no captions of the data, encoded as an evaluation encodes its captions."""

from collections.abc import Sequence

import torch

from ascl_lightning.data.stored_features import FeatureTable
from ascl_lightning.data.text import Tokenizer
from ascl_lightning.metrics.gallery import Items
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.training.extraction import encoded_by_length

_TOKENIZED_TOGETHER = 4096


class TextItems:
    """Encodes texts with a model.

    Args:
        model: The model.
        tokenizer: Of its text tower.
        device: Where it lies.
        stored: Where the features of the captions are read from: those of other texts are rounded likewise, lest a
            text and its caption differ by rounding alone. None: captions are encoded too.
    """

    def __init__(
        self, model: ImageTextModel, tokenizer: Tokenizer, device: torch.device, stored: FeatureTable | None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._stored = stored

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Items:
        """Items numbered as the texts; at least one text."""
        tokenized, _ = self._tokenizer(texts)
        order, encoded, embeds = [], [], []
        for rows, features in encoded_by_length(self._model.text_encoder, tokenized, self._device):
            items = self._model.encode_texts(features if self._stored is None else self._stored.as_stored(features))
            order.append(rows)
            encoded.append(items)
            embeds.append(self._model.similarity.text_embeds(items))
        return Items(
            ids=torch.cat(order),
            pooled=torch.cat([items.pooled for items in encoded]),
            lengths=torch.cat([items.mask.sum(dim=1) for items in encoded]),
            embeds=torch.cat(embeds),
            tokens=[items.tokens[items.mask] for items in encoded],
            device=self._device,
        )

    def num_truncated(self, texts: Sequence[str]) -> int:
        """How many of some texts the tokenizer's limit cuts."""
        starts = range(0, len(texts), _TOKENIZED_TOGETHER)
        return sum(self._tokenizer(texts[start : start + _TOKENIZED_TOGETHER])[1] for start in starts)
