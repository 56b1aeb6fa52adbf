"""A planted model whose every score is known: a word is an axis, and a picture's regions are the words it shows."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.data.text import Vocabulary, WordTokenizer
from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.models.fusion import FusedSimilarity

WORDS = ("a", "red", "blue", "green", "dog", "cat", "ball", "tree", "runs", "jumps")


def planted_similarity() -> FusedSimilarity:
    """Local attention alone, one head, so sharp that a word looks at the region of its own axis and at no other."""
    scales = {"image_to_text_scale": 50.0, "text_to_image_scale": 50.0}
    return FusedSimilarity(len(WORDS) + 2, 1, 1.0, global_fusion="none", **scales)


def planted_tokenizer() -> WordTokenizer:
    """Ids are axes: 0 is padding, 1 an unknown word."""
    return WordTokenizer(Vocabulary(WORDS), max_length=12, vocab_size=len(WORDS) + 2)


def axes(texts: Sequence[str]) -> Features:
    """One axis for each word."""
    tokens, _ = planted_tokenizer()(texts)
    vectors = torch.nn.functional.one_hot(tokens.input_ids, len(WORDS) + 2).float()
    vectors = vectors * tokens.attention_mask[..., None]
    return Features(vectors.sum(1), vectors, tokens.attention_mask)


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
