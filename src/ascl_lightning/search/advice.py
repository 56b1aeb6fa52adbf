"""Finds the words of a query that no retrieved image supports.

The support of a word is its maximum over the retrieved images. It is compared with two distributions, estimated on the
captions of a split: the maximum over as many images that include the caption's own, and over as many random images. A
word is unsupported if its support is three times likelier under the latter (`UsualSupport.doubt` above `UNSUPPORTED`),
or if it is not in the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ascl_lightning.data.batch import Features
from ascl_lightning.data.text import Tokenizer, clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.metrics.gallery import Gallery
from ascl_lightning.models.model import ImageTextModel
from ascl_lightning.models.similarity.grounding import align_positions, ground, support_by_word
from ascl_lightning.search.word_support import UNSUPPORTED, UsualSupport, pair_support

MAX_CALIBRATION = 2_000
"""Maximum number of captions that estimate the usual support."""
_IMAGES_PER_PASS = 1_024


@dataclass(frozen=True)
class WordAdvice:
    """One word of a query.

    Args:
        word: The cleaned word.
        support: Maximum support in the retrieved images.
        doubt: Log likelihood ratio against support (`UsualSupport.doubt`).
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


@dataclass(frozen=True)
class Advice:
    """The retrieved images and the words of a query.

    Args:
        images: Numbers of the retrieved images in the gallery, best first.
        scores: Scores of the retrieved images.
        words: Words of the query in order, without those that the tokenizer truncates.
    """

    images: list[int]
    scores: list[float]
    words: list[WordAdvice]

    @property
    def unsupported(self) -> list[str]:
        """Words that no retrieved image supports."""
        return [word.word for word in self.words if not word.is_supported]


class Adviser:
    """Searches queries in a gallery and checks the support of their words.

    Args:
        model: The model that encoded the gallery.
        tokenizer: Tokenizer of the model.
        gallery: An encoded split with captions, on which the usual support is estimated.
        captions: The cleaned captions, in the order of the gallery's texts.
        num_candidates: Number of images to retrieve.
        seed: Seed of the captions and random images for the usual support.

    Raises:
        UserError: If the split has fewer than 2 images, or no captions.
    """

    def __init__(
        self,
        model: ImageTextModel,
        tokenizer: Tokenizer,
        gallery: Gallery,
        captions: Sequence[str],
        num_candidates: int = 10,
        seed: int = 0,
    ) -> None:
        if len(gallery.images.ids) < 2 or not captions:
            raise UserError("the usual support of words needs at least 2 images with captions: give another split")
        self._model = model
        self._tokenizer = tokenizer
        self._gallery = gallery
        self._num_candidates = min(num_candidates, len(gallery.images.ids))
        self.usual = self._calibrate(captions, np.random.default_rng(seed))

    @torch.no_grad()
    def advise(self, query: str) -> Advice:
        """Retrieves images for a query and checks the support of its words.

        Raises:
            UserError: If the query contains no word.
        """
        text = clean_caption(query)
        if not text:
            raise UserError("the query has no word: give at least one")
        device = self._gallery.image_of_text.device
        tokens = self._tokenizer([text])[0]
        tokens = type(tokens)(*(field.to(device) for field in vars(tokens).values()))
        encoded = self._model.encode_texts(tokens)
        scores = self._scores(encoded)
        best = scores.topk(self._num_candidates)
        repeated = Features(*(field.expand(len(best.indices), *field.shape[1:]) for field in vars(encoded).values()))
        grounding = ground(self._model.similarity, self._gallery.images.select(best.indices), repeated)
        positions = align_positions(self._tokenizer.word_positions([text]), encoded.mask.cpu())
        highest = grounding.word_support.max(0, keepdim=True).values.float().cpu()
        support = support_by_word(highest, positions)[0].numpy()
        words = text.split()[: len(support)]
        doubts = self.usual.doubt(words, support)
        return Advice(
            best.indices.tolist(),
            best.values.tolist(),
            [
                WordAdvice(word, float(of_word), float(doubt), self._tokenizer.knows(word))
                for word, of_word, doubt in zip(words, support, doubts, strict=True)
            ],
        )

    def _scores(self, text: Features) -> Tensor:
        numbers = torch.arange(len(self._gallery.images.ids), device=self._gallery.image_of_text.device)
        parts = (self._gallery.images.select(part) for part in numbers.split(_IMAGES_PER_PASS))
        return torch.cat([self._model.score(part, text)[:, 0] for part in parts])

    def _calibrate(self, captions: Sequence[str], rng: np.random.Generator) -> UsualSupport:
        """Estimates the maximum support over `num_candidates` images, with and without the caption's own image."""
        chosen = np.sort(rng.permutation(len(captions))[:MAX_CALIBRATION])
        texts = torch.from_numpy(chosen).to(self._gallery.image_of_text.device)
        own = self._gallery.image_of_text[texts]
        with_own, words = self._support(captions, own, texts)
        without = np.full_like(with_own, -np.inf)
        for number in range(self._num_candidates):
            steps = torch.from_numpy(rng.integers(1, len(self._gallery.images.ids), len(chosen))).to(own.device)
            strange = self._support(captions, (own + steps) % len(self._gallery.images.ids), texts)[0]
            without = np.maximum(without, strange)
            if number:
                with_own = np.maximum(with_own, strange)
        return UsualSupport.of(words, with_own, without)

    def _support(
        self, captions: Sequence[str], images: Int[Tensor, " P"], texts: Int[Tensor, " P"]
    ) -> tuple[np.ndarray, np.ndarray]:
        found = pair_support(self._model.similarity, self._tokenizer, self._gallery, captions, images, texts)
        return found.support, found.words
