"""The usual support of words in a gallery, estimated from its captions when it is indexed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ascl_lightning.api import Retriever
from ascl_lightning.data.text import clean_caption
from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.store import VectorStore
from ascl_lightning.metrics.gallery import Gallery, Items
from ascl_lightning.runtime.files import write_file
from ascl_lightning.search.encoded import Encoded
from ascl_lightning.search.query_words import usual_highest_support
from ascl_lightning.search.word_support import UsualSupport

CHECKED_HITS = 10
"""Number of hits in which words are looked for."""
_MAX_CAPTIONS = 500
"""Captions that estimate the usual support."""


def calibrate_support(
    file: Path, retriever: Retriever, catalogue: Catalogue, pictures: VectorStore, captions: VectorStore
) -> None:
    """Estimates the usual support of words in `CHECKED_HITS` images, and writes it.

    Args:
        file: File to write. It says null if the gallery has too few captions, or the model reads no single words.
        retriever: The model of the gallery.
        catalogue: The catalogue.
        pictures: Store of the pictures.
        captions: Store of the captions.
    """
    usual = _estimate(retriever, catalogue, pictures, captions)
    content = (
        None
        if usual is None
        else {
            "words": list(usual.place),
            **{name: getattr(usual, name).tolist() for name in ("own", "other", "spread")},
        }
    )
    write_file(file, json.dumps(content, ensure_ascii=False))


def read_support(file: Path) -> UsualSupport | None:
    """Reads what `calibrate_support` wrote; None if there is nothing."""
    try:
        content: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if content is None:
        return None
    place = {word: number for number, word in enumerate(content["words"])}
    return UsualSupport(place, *(np.array(content[name]) for name in ("own", "other", "spread")))


def _estimate(
    retriever: Retriever, catalogue: Catalogue, pictures: VectorStore, captions: VectorStore
) -> UsualSupport | None:
    similarity, numbers = retriever.model.similarity, catalogue.caption_ids()
    if not similarity.uses_words or not len(numbers):
        return None
    chosen = np.sort(np.random.default_rng(0).permutation(numbers)[:_MAX_CAPTIONS]).tolist()
    of_captions = catalogue.captions_of(chosen)
    read = [of_captions[number] for number in chosen]
    images, image_of_text = np.unique([item for item, _ in read], return_inverse=True)
    if len(images) < 2:
        return None
    texts, encoded = captions.items(chosen), pictures.items(images.tolist())
    device = retriever.device
    gallery = Gallery(
        _items(encoded, device), _items(texts, device), torch.from_numpy(image_of_text).to(device), similarity, {}
    )
    cleaned = [clean_caption(text) for _, text in read]
    return usual_highest_support(similarity, retriever.tokenizer, gallery, cleaned, CHECKED_HITS)


def _items(encoded: Encoded, device: torch.device) -> Items:
    features = encoded.features
    lengths, tokens = features.mask.sum(1), [features.tokens[features.mask]]
    return Items(torch.arange(len(encoded)), features.pooled, lengths, encoded.embeds, tokens, device)
