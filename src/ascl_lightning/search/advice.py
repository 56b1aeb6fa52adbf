"""What a query asks for that none of its best candidates shows.

A word's support is the highest that it has in any candidate. It is held against what is usual of the word: the highest
support in as many pictures, its own among them, of captions of a split that have the word; and the highest in as many
pictures drawn at random. The word is without support where its own is three times likelier for the latter
(`UsualSupport.doubt` above `UNSUPPORTED`), or where the model does not know it.
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
"""Captions that tell what is usual."""
_IMAGES_PER_PASS = 1_024


@dataclass(frozen=True)
class WordAdvice:
    """One word of a query.

    Args:
        word: As the model reads it.
        support: The highest in any candidate.
        doubt: How much speaks against it (`UsualSupport.doubt`).
        is_known: Whether the model knows the word.
    """

    word: str
    support: float
    doubt: float
    is_known: bool

    @property
    def is_supported(self) -> bool:
        """Whether a candidate supports it."""
        return self.is_known and self.doubt <= UNSUPPORTED


@dataclass(frozen=True)
class Advice:
    """A query's best candidates, and its words.

    Args:
        images: Numbers of the candidates in the gallery, the best first.
        scores: Their scores.
        words: In their order; those that the tokenizer's limit cuts are not among them.
    """

    images: list[int]
    scores: list[float]
    words: list[WordAdvice]

    @property
    def unsupported(self) -> list[str]:
        """Words that no candidate supports."""
        return [word.word for word in self.words if not word.is_supported]


class Adviser:
    """Looks up queries in a gallery of encoded images.

    Args:
        model: What encoded the gallery.
        tokenizer: Likewise.
        gallery: A split with captions, which tell what is usual.
        captions: Its captions by number, cleaned.
        num_candidates: Most candidates of a query.
        seed: Of the captions and pictures that tell what is usual.

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
            raise UserError("advice compares pictures with captions: give a split of 2 images or more with captions")
        self._model = model
        self._tokenizer = tokenizer
        self._gallery = gallery
        self._num_candidates = min(num_candidates, len(gallery.images.ids))
        self.usual = self._calibrate(captions, np.random.default_rng(seed))

    @torch.no_grad()
    def advise(self, query: str) -> Advice:
        """The best candidates of a query, and which of its words none of them supports.

        Raises:
            UserError: If the query has no word.
        """
        text = clean_caption(query)
        if not text:
            raise UserError("the query has no word")
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
        """From the highest support in as many pictures as there are candidates, with and without the own."""
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
