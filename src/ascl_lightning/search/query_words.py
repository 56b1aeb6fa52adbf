"""Finds the words of a query that no retrieved image supports.

The support of a word is its maximum over the retrieved images. It is compared with two distributions, estimated on
captions: the maximum over as many images that include the caption's own, and over as many random images. A word is
unsupported if its support is three times likelier under the latter (`UsualSupport.doubt` above `UNSUPPORTED`), or if it
is not in the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.data.text import Tokenizer
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.similarity.fused import FusedSimilarity
from ascl_lightning.models.similarity.grounding import align_positions, ground, support_by_word
from ascl_lightning.search.word_support import UNSUPPORTED, UsualSupport, pair_support


@dataclass(frozen=True)
class QueryWord:
    """One word of a query.

    Args:
        word: The cleaned word.
        support: Maximum support in the retrieved images.
        doubt: Log likelihood ratio against support (`UsualSupport.doubt`); 0 if the usual support is not known.
        is_known: Whether the word is in the vocabulary.
    """

    word: str
    support: float
    doubt: float
    is_known: bool

    @property
    def is_supported(self) -> bool:
        """Whether a retrieved image supports the word."""
        return self.is_known and self.doubt <= UNSUPPORTED


@torch.no_grad()
def query_words(
    similarity: FusedSimilarity,
    tokenizer: Tokenizer,
    query: str,
    text: Features,
    images: Features,
    usual: UsualSupport | None = None,
) -> list[QueryWord]:
    """Support of the words of a query in the retrieved images.

    Args:
        similarity: Similarity of the model that encoded text and images.
        tokenizer: Tokenizer of the same model.
        query: The cleaned query.
        text: The encoded query, one item.
        images: The retrieved images, at least one.
        usual: Usual maximum support in as many images. None: only words outside the vocabulary are unsupported.

    Returns:
        The words in order, without those that the tokenizer truncates.
    """
    repeated = Features(*(field.expand(len(images), *field.shape[1:]) for field in vars(text).values()))
    grounding = ground(similarity, images, repeated)
    positions = align_positions(tokenizer.word_positions([query]), text.mask.cpu())
    highest = grounding.word_support.max(0, keepdim=True).values.float().cpu()
    support = support_by_word(highest, positions)[0].numpy()
    words = query.split()[: len(support)]
    doubts = np.zeros(len(words)) if usual is None else usual.doubt(words, support)
    return [
        QueryWord(word, float(of_word), float(doubt), tokenizer.knows(word))
        for word, of_word, doubt in zip(words, support, doubts, strict=True)
    ]


def usual_highest_support(
    similarity: FusedSimilarity,
    tokenizer: Tokenizer,
    gallery: Gallery,
    captions: Sequence[str],
    num_images: int,
    seed: int = 0,
) -> UsualSupport:
    """Estimates the usual maximum support of words over several images, with and without the caption's own image.

    Args:
        similarity: Similarity of the model that encoded the gallery.
        tokenizer: Tokenizer of the same model.
        gallery: Encoded images and captions.
        captions: The cleaned captions, in the order of the gallery's texts.
        num_images: Number of images to take the maximum over.
        seed: Seed of the random images.

    Raises:
        UserError: If there are fewer than 2 images, or no captions.
    """
    count = len(gallery.images.ids)
    if count < 2 or not captions:
        raise UserError("the usual support of words needs at least 2 images with captions")
    rng, device = np.random.default_rng(seed), gallery.image_of_text.device
    texts = torch.arange(len(captions), device=device)
    own = gallery.image_of_text

    def support(images: Int[Tensor, " P"]) -> tuple[np.ndarray, np.ndarray]:
        found = pair_support(similarity, tokenizer, gallery, captions, images, texts)
        return found.support, found.words

    with_own, words = support(own)
    without = np.full_like(with_own, -np.inf)
    for number in range(num_images):
        steps = torch.from_numpy(rng.integers(1, count, len(captions))).to(device)
        strange = support((own + steps) % count)[0]
        without = np.maximum(without, strange)
        if number:
            with_own = np.maximum(with_own, strange)
    return UsualSupport.of(words, with_own, without)
