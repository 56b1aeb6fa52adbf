"""A planted model whose every score is known: a word is an axis, and a picture's regions are the words it shows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ascl_lightning.data.batch import Features, TextSpec, TokenizedTexts
from ascl_lightning.data.text import Vocabulary, WordTokenizer
from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.towers.regions import RegionEncoder
from ascl_lightning.models.towers.text import TextEncoder
from ascl_lightning.models.towers.tuning import Tuning

THINGS = tuple(f"thing{number}" for number in range(40))
WORDS = ("a", "red", "blue", "dog", "cat", "tree", "sky", *THINGS)


def planted_similarity() -> FusedSimilarity:
    """Local attention alone, one head, so sharp that a word looks at the region of its own axis and at no other."""
    scales = {"image_to_text_scale": 50.0, "text_to_image_scale": 50.0}
    return FusedSimilarity(len(WORDS) + 2, 1, 1.0, global_fusion="none", **scales)


def planted_tokenizer() -> WordTokenizer:
    """Ids are axes: 0 is padding, 1 an unknown word."""
    return WordTokenizer(Vocabulary(WORDS), max_length=12, vocab_size=len(WORDS) + 2)


def planted_split(num_images: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Pictures of six things under the sky, and of each three captions that tell of four of the things.

    Args:
        num_images: How many.
        seed: Of the draws.

    Returns:
        The words that each picture shows, and its captions.
    """
    rng = np.random.default_rng(seed)
    shown = [rng.choice(THINGS, 6, replace=False).tolist() for _ in range(num_images)]
    captions = [[" ".join(["a", *rng.choice(things, 4, replace=False)]) for _ in range(3)] for things in shown]
    return [" ".join(["a", "sky", *things]) for things in shown], captions


def axes(texts: Sequence[str]) -> Features:
    """One axis for each word."""
    return Axes()(planted_tokenizer()(texts)[0])


def planted_gallery(pictures: Sequence[str], captions: Sequence[Sequence[str]]) -> Gallery:
    """Pictures by the words that they show, with their captions, scored by `planted_similarity`."""
    similarity = planted_similarity()
    image_of_text = torch.tensor([row for row, of_image in enumerate(captions) for _ in of_image], dtype=torch.long)
    images, texts = axes(pictures), axes([text for of_image in captions for text in of_image])
    return Gallery(_items(images), _items(texts), image_of_text, similarity, {})


def _items(features: Features) -> Items:
    embeds: Tensor = torch.nn.functional.normalize(features.pooled, dim=-1)
    tokens, lengths = [features.tokens[features.mask]], features.mask.sum(1)
    return Items(torch.arange(len(features)), features.pooled, lengths, embeds, tokens, torch.device("cpu"))


class Axes(TextEncoder):
    """A word is its axis."""

    pooled_dim = token_dim = len(WORDS) + 2

    def __init__(self) -> None:
        super().__init__(tuning=Tuning(frozen=True))
        self.spec = TextSpec(max_length=12, vocab_size=len(WORDS) + 2)

    def _encode(self, texts: TokenizedTexts) -> Features:
        vectors = torch.nn.functional.one_hot(texts.input_ids, len(WORDS) + 2).float()
        vectors = vectors * texts.attention_mask[..., None]
        return Features(vectors.sum(1), vectors, texts.attention_mask)


def planted_model() -> ImageTextModel:
    """A model that reads words as axes; its pictures come encoded."""
    return ImageTextModel(RegionEncoder(8, len(WORDS) + 2), Axes(), planted_similarity(), project=False)
