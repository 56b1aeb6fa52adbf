"""Which words of a query a picture supports, and where in the picture they look."""

from dataclasses import dataclass

import numpy as np
import torch

from ascl_lightning.api import Retriever
from ascl_lightning.data.text import clean_caption
from ascl_lightning.evaluation.page.spotlight import spotlight
from ascl_lightning.models.similarity.grounding import align_positions, grid_side, ground, support_by_word
from ascl_lightning.search.encoded import Encoded

MAX_WORDS = 16
"""Words of a query that are shown; each has rules in page.css."""


@dataclass(frozen=True)
class Look:
    """A word of a query in one picture.

    Args:
        place: Its place in the query.
        word: The cleaned word.
        support: Its cosine with the regions that it attends to.
        shade: Overlay of the encoder's square input as a `data:` URL: amber where the word looks, dark elsewhere. None
            if the regions form no grid.
    """

    place: int
    word: str
    support: float
    shade: str | None


@torch.no_grad()
def looks(retriever: Retriever, text: str, images: Encoded) -> list[list[Look]]:
    """The words of a query in pictures.

    Args:
        retriever: The model.
        text: The query.
        images: N encoded pictures.

    Returns:
        For each picture its words in order, without those that the tokenizer cut off; empty if no score of the model
        reads single words.
    """
    model, cleaned = retriever.model, clean_caption(text)
    if not len(images) or not model.similarity.uses_words:
        return [[] for _ in range(len(images))]
    texts = retriever.encode_texts([text])[[0] * len(images)]
    images, texts = images.to(retriever.device), texts.to(retriever.device)
    grounding = ground(model.similarity, images.features, texts.features)
    positions = retriever.tokenizer.word_positions([cleaned] * len(images))
    positions = align_positions(positions, texts.features.mask.cpu())
    support = support_by_word(grounding.word_support.float().cpu(), positions).numpy()
    attention = grounding.word_to_region.float().cpu().numpy()
    side = grid_side(retriever.image_spec, attention.shape[2]) if bool(images.features.mask.all()) else None
    words = cleaned.split()[:MAX_WORDS]

    def look(row: int, place: int, word: str) -> Look:
        of_word = positions[row].numpy() == place
        shade = None if side is None else spotlight(attention[row, of_word].mean(0).tolist(), side)
        return Look(place, word, float(support[row, place]), shade)

    return [
        [look(row, place, word) for place, word in enumerate(words) if _is_read(support[row], place)]
        for row in range(len(images))
    ]


def _is_read(support: np.ndarray, place: int) -> bool:
    return place < len(support) and not np.isnan(support[place])
