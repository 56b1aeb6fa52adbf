"""Small deterministic towers."""

import torch
from torch import nn

from ascl_lightning.data.batch import Features, PixelSpec, TextSpec, TokenizedTexts
from ascl_lightning.models.towers.image import ImageEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.models.towers.tuning import Tuning

FROZEN = Tuning(frozen=True)


class MeanColour(ImageEncoder):
    """Tokens are the mean colours of a picture's quarters, (N, 4, 3), the global vector their mean; counts pictures."""

    pooled_dim = token_dim = 3

    def __init__(
        self,
        size: int = 16,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning)
        self.spec = PixelSpec(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("num_batches", torch.tensor(0))  # of no dimension, as BatchNorm has one
        self.pictures_seen = 0

    def _encode(self, images):
        self.pictures_seen += len(images)
        quarters = nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(2).transpose(1, 2)
        tokens = quarters * self.scale
        return Features(tokens.mean(dim=1), tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


class WordTable(TextEncoder):
    """Words are rows of a table, the global vector is their mean; counts texts."""

    pooled_dim = token_dim = 5

    def __init__(
        self,
        vocab_size: int = 60,
        tuning: Tuning = Tuning(),
    ) -> None:
        super().__init__(tuning=tuning)
        self.spec = TextSpec(max_length=12, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, 5)
        self.texts_seen = 0

    def _encode(self, texts: TokenizedTexts) -> Features:
        self.texts_seen += len(texts.input_ids)
        tokens = self.table(texts.input_ids)
        mask = self._words(texts)
        pooled = (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        return Features(pooled, tokens, mask)
