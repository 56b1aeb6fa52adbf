"""`Gallery`: search in a folder of indexed pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ascl_lightning.api import Retriever
from ascl_lightning.data.text import clean_caption
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.index import index
from ascl_lightning.gallery.manifest import CAPTIONS, CATALOGUE, PICTURES, SUPPORT, Manifest, Origin
from ascl_lightning.gallery.query import Query
from ascl_lightning.gallery.store import VectorStore
from ascl_lightning.gallery.stores import open_store
from ascl_lightning.gallery.support import CHECKED_HITS, read_support
from ascl_lightning.search.encoded import Encoded
from ascl_lightning.search.query_words import query_words

_CANDIDATES = 100
"""Default length of the shortlist, as of `Retriever.rank`."""
_NEIGHBOURS = 32
"""Near-duplicates of a picture that `duplicates` finds at most."""
_BLOCK = 1024


@dataclass(frozen=True)
class GalleryHit:
    """A picture that was found.

    Args:
        id: Its number in the gallery, which it keeps when the file is moved.
        path: Path relative to the folder of the pictures.
        score: Fused score, by which hits are ranked.
        scores: Scores by level: `independent` (the first stage), `local` or `global` if the model has them, `fused`.
        fields: What the catalogue knows: path, size, width, height, taken, year, month, caption, tags.
    """

    id: int
    path: str
    score: float
    scores: Mapping[str, float]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class GalleryResults:
    """Result of a search.

    Args:
        hits: The pictures, best first.
        unsupported: Words of the query that no hit supports.
        reason: Why there is no hit; None if there is one.
    """

    hits: list[GalleryHit]
    unsupported: list[str]
    reason: str | None


@dataclass(frozen=True)
class CaptionHit:
    """A caption that was found for an image.

    Args:
        text: The caption.
        id: Number of its picture in the gallery.
        path: Path of that picture.
        score: Fused score.
    """

    text: str
    id: int
    path: str
    score: float


@dataclass(frozen=True)
class Duplicates:
    """Two pictures that look the same: ids, paths, and the cosine of their embeddings."""

    ids: tuple[int, int]
    paths: tuple[str, str]
    score: float


class Gallery:
    """Indexed pictures that can be searched. Open one with `Gallery.open`, make one with `Gallery.index`.

    Args:
        folder: Folder of the gallery.
        manifest: Its `gallery.json`.
        retriever: The model that made it.
    """

    def __init__(self, folder: Path, manifest: Manifest, retriever: Retriever) -> None:
        contents = folder / manifest.contents
        self.folder = folder
        self.retriever = retriever
        self.images = Path(manifest.images)
        """Folder of the pictures."""
        self._catalogue = Catalogue(contents / CATALOGUE)
        self.store: VectorStore = open_store(manifest, folder, PICTURES)
        self._captions: VectorStore = open_store(manifest, folder, CAPTIONS)
        self._usual = read_support(contents / SUPPORT)

    @classmethod
    def open(
        cls, folder: Path | str, retriever: Retriever | None = None, device: torch.device | str | None = None
    ) -> "Gallery":
        """Opens a gallery.

        Args:
            folder: Folder of the gallery.
            retriever: The model that made it. None: loaded from where it was when the gallery was made.
            device: Device of a loaded model. None: the first GPU if available, else the CPU.

        Raises:
            UserError: If the folder is not a gallery, or the model is another than the one that made it (the message
                has the command that encodes the pictures again).
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        if retriever is None:
            retriever = load_model(manifest.origin, device)
        if retriever.fingerprint != manifest.model:
            raise UserError(
                f"'{folder}' was made with other weights; to encode all pictures with these, run: "
                f"{manifest.rebuild_command(folder)}"
            )
        return cls(folder, manifest, retriever)

    @classmethod
    def index(cls, images: Path | str, folder: Path | str, retriever: Retriever, **options: Any) -> "Gallery":
        """Makes a gallery of a folder of pictures, or brings it up to date, and opens it.

        Args:
            images: Folder of the pictures.
            folder: Folder of the gallery.
            retriever: The model.
            **options: See `gallery.index.index`; for example `store="http://localhost:19530"`.
        """
        index(retriever, Path(images), Path(folder), **options)
        return cls.open(folder, retriever)

    def __len__(self) -> int:
        return len(self._catalogue)

    def close(self) -> None:
        """Releases the files."""
        self._catalogue.close()
        self.store.close()
        self._captions.close()

    def image_path(self, number: int) -> Path:
        """File of a picture.

        Raises:
            UserError: If the gallery has no picture of this id.
        """
        return self.images / str(self.fields(number)["path"])

    def fields(self, number: int) -> dict[str, Any]:
        """What the catalogue knows of a picture; its captions are the lines of `caption`.

        Raises:
            UserError: If the gallery has no picture of this id.
        """
        found = self._catalogue.fields([number])
        if number not in found:
            raise UserError(f"the gallery has no picture with id {number}: take ids from the results of a search")
        return found[number]

    def search(
        self,
        text: str | None = None,
        image: Any = None,
        *,
        text_weight: float = 0.5,
        like: Sequence[int] = (),
        unlike: Sequence[int | str] = (),
        where: str | None = None,
        k: int = 10,
        candidates: int | None = None,
    ) -> GalleryResults:
        """Searches in two stages: a shortlist by embeddings, sorted by the fused score.

        Args:
            text: Describes the pictures.
            image: A picture like which they should be: a path, a Pillow image, an array or a tensor.
            text_weight: Weight of the text if both are given, in [0, 1].
            like: Ids of pictures like which the hits should be.
            unlike: Ids of pictures, and texts, unlike which they should be.
            where: Condition on the fields, such as `year >= 2024` (grammar: `gallery.where`).
            k: Maximum number of hits.
            candidates: Length of the shortlist, at least k. None: 100.

        Returns:
            The hits, best first, words of the text that none of them supports, and why there is no hit.

        Raises:
            UserError: If there is nothing to search for, or an argument is wrong.
        """
        _check_numbers(k, candidates)
        allowed = None if where is None else self._catalogue.where(where)
        encoded = None if text is None else self.retriever.encode_texts([text])
        query = Query.of(
            encoded,
            None if image is None else self.retriever.encode_images([image]),
            text_weight,
            self._stored(like),
            self._stored([one for one in unlike if not isinstance(one, str)])
            + [self.retriever.encode_texts([one]) for one in unlike if isinstance(one, str)],
        )
        reason = self._reason(allowed, where, text if len(query.terms) == 1 else None)
        if reason is not None:
            return GalleryResults([], [], reason)
        vector = torch.nn.functional.normalize(query.vector, dim=0)
        near = self.store.search(vector[None], max(k, candidates or _CANDIDATES), allowed).ids[0]
        hits, items = self._hits(query, near[near >= 0], k)
        unsupported = [] if text is None or encoded is None or not hits else self._unsupported(text, encoded, items)
        return GalleryResults(hits, unsupported, None)

    def captions_of(self, image: Any, k: int = 10, *, candidates: int | None = None) -> list[CaptionHit]:
        """Finds the captions in the gallery that describe an image, in two stages.

        Args:
            image: A path, a Pillow image, an array or a tensor.
            k: Maximum number of captions.
            candidates: Length of the shortlist, at least k. None: 100.

        Returns:
            The captions, best first; empty if the pictures have none.

        Raises:
            UserError: If the image cannot be read.
        """
        _check_numbers(k, candidates)
        encoded = self.retriever.encode_images([image])
        if not self._captions.count():
            return []
        near = self._captions.search(encoded.embeds, max(k, candidates or _CANDIDATES)).ids[0]
        numbers = near[near >= 0].tolist()
        read = self._catalogue.captions_of(numbers)
        numbers = [number for number in numbers if number in read]
        scores = self.retriever.score(encoded, self._captions.items(numbers))[0]
        best = scores.argsort(descending=True, stable=True)[:k].tolist()
        fields = self._catalogue.fields([read[numbers[place]][0] for place in best])
        return [
            CaptionHit(text, item, fields[item]["path"], float(scores[place]))
            for place in best
            for item, text in [read[numbers[place]]]
        ]

    def duplicates(self, threshold: float = 0.98) -> Iterator[Duplicates]:
        """Pairs of pictures whose embeddings are nearly the same, by ids; each picture with its 32 nearest at most.

        Args:
            threshold: Least cosine of the embeddings.
        """
        ids = self._catalogue.ids()
        for start in range(0, len(ids), _BLOCK):
            block = ids[start : start + _BLOCK].tolist()
            near = self.store.search(self.store.items(block).embeds, _NEIGHBOURS + 1)
            pairs = [
                (first, second, score)
                for first, others, scores in zip(block, near.ids.tolist(), near.scores.tolist(), strict=True)
                for second, score in zip(others, scores, strict=True)
                if second > first and score >= threshold
            ]
            fields = self._catalogue.fields(list({number for pair in pairs for number in pair[:2]}))
            for first, second, score in sorted(pairs, key=lambda pair: (pair[0], -pair[2], pair[1])):
                if first in fields and second in fields:
                    yield Duplicates((first, second), (fields[first]["path"], fields[second]["path"]), score)

    def _stored(self, ids: Sequence[int]) -> list[Encoded]:
        for number in ids:
            self.fields(number)
        return list(self.store.items(list(ids))) if ids else []

    def _hits(self, query: Query, near: Int[Tensor, " C"], k: int) -> tuple[list[GalleryHit], Encoded]:
        """The best of a shortlist, and their encoded pictures."""
        numbers = near.sort().values
        items = self.store.items(numbers.tolist())
        scores = query.scores(self.retriever.model.similarity, items, self.retriever.device)
        # a stable sort: ties are ordered by id
        best = scores["fused"].argsort(descending=True, stable=True)[:k]
        fields = self._catalogue.fields(numbers[best].tolist())
        hits = [
            GalleryHit(
                number,
                fields[number]["path"],
                float(scores["fused"][place]),
                {name: float(values[place]) for name, values in scores.items()},
                fields[number],
            )
            for place, number in zip(best.tolist(), numbers[best].tolist(), strict=True)
            # an indexer may have removed it a moment ago
            if number in fields
        ]
        return hits, items[best]

    def _unsupported(self, text: str, encoded: Encoded, hits: Encoded) -> list[str]:
        cleaned = clean_caption(text)
        if not self.retriever.model.similarity.uses_words:
            return [word for word in cleaned.split() if not self.retriever.tokenizer.knows(word)]
        shown = hits[:CHECKED_HITS].features
        words = query_words(
            self.retriever.model.similarity, self.retriever.tokenizer, cleaned, encoded.features, shown, self._usual
        )
        return list(dict.fromkeys(word.word for word in words if not word.is_supported))

    def _reason(self, allowed: Int[np.ndarray, " a"] | None, where: str | None, text: str | None) -> str | None:
        """Why a search can have no answer; None if it can."""
        if not self.store.count():
            return "the gallery is empty: index a folder that has pictures"
        if allowed is not None and not len(allowed):
            return f"none of the {len(self):,} pictures fulfils --where '{where}'"
        if text is not None and not any(map(self.retriever.tokenizer.knows, clean_caption(text).split())):
            return f"the model knows no word of '{text}'"
        return None


def load_model(origin: Origin, device: torch.device | str | None = None) -> Retriever:
    """Loads the model of a gallery.

    Raises:
        UserError: If it was not recorded, or cannot be loaded.
    """
    if origin.weights is not None:
        return Retriever.from_pretrained(origin.weights, device=device)
    if origin.ckpt_path is not None:
        return Retriever.from_checkpoint(origin.ckpt_path, origin.config, device=device)
    raise UserError(
        "the gallery does not say where its model is: run `ascl index` on it once, which records --weights or "
        "--ckpt_path, or give the model, as in Gallery.open(folder, retriever)"
    )


def _check_numbers(k: int, candidates: int | None) -> None:
    if k < 1 or (candidates is not None and candidates < 1):
        raise UserError(f"k is {k} and candidates {candidates}: give positive numbers")
