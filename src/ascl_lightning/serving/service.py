"""What the routes compute, as blocking calls for worker threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.page.pictures import thumbnail
from ascl_lightning.gallery.gallery import CaptionHit, Gallery, GalleryResults
from ascl_lightning.search.encoded import Encoded
from ascl_lightning.serving.limits import Limits
from ascl_lightning.serving.messages import MovedHit, PageRequest, SearchRequest, VariantMessage
from ascl_lightning.serving.pictures import THUMBNAIL_SIDE, Rendition, Renditions, open_upload
from ascl_lightning.serving.variants import variants
from ascl_lightning.serving.words import Look, looks

CAPTIONS = 5
"""Captions that are listed for a picture."""


class NothingAskedError(ValueError):
    """A search has neither text, picture nor examples."""


class NoPictureError(LookupError):
    """The gallery has no picture of an id."""


@dataclass(frozen=True)
class Found:
    """Results of a search for the page.

    Args:
        results: The gallery's results.
        looks: For each hit the words of the query; empty without a text.
        variants: Changed queries with their pictures.
        captions: Captions in the gallery that describe the picture that was searched by.
        upload: The uploaded picture as a `data:` URL.
    """

    results: GalleryResults
    looks: list[list[Look]] = field(default_factory=list)
    variants: list[VariantMessage] = field(default_factory=list)
    captions: Sequence[CaptionHit] = ()
    upload: str | None = None


class Service:
    """Searches, encodes and reads pictures of one gallery.

    Args:
        gallery: The gallery. Its methods are called in the threads that call this class's.
        limits: Limits of uploads and of kept pictures.
    """

    def __init__(self, gallery: Gallery, limits: Limits) -> None:
        self.gallery, self._limits = gallery, limits
        self._renditions = Renditions(limits.cache_bytes)

    @property
    def crop(self) -> str:
        """How the model makes pictures square."""
        return getattr(self.gallery.retriever.image_spec, "crop", "center")

    def search(self, request: SearchRequest, upload: bytes | None = None) -> GalleryResults:
        """Results of the gallery.

        Args:
            request: The search.
            upload: An uploaded picture, which is used instead of `image_id`.

        Raises:
            NothingAskedError: If there is nothing to search by.
            NoPictureError: If the gallery lacks the picture of `image_id`.
            UserError: If the filter has a mistake, or the upload cannot be read.
        """
        return self._search(request, self._picture(request, upload))

    def find(self, request: PageRequest, upload: bytes | None = None) -> Found:
        """Results for the page; see `search`."""
        picture = self._picture(request, upload)
        results = self._search(request, picture)
        shown = thumbnail(picture, THUMBNAIL_SIDE) if isinstance(picture, Image.Image) else None
        described = () if picture is None else self.gallery.captions_of(picture, CAPTIONS)
        if request.text is None or not results.hits:
            return Found(results, captions=described, upload=shown)
        found = self._looks(request.text, [hit.id for hit in results.hits])
        moved = self._variants(request, results) if request.variants and picture is None else []
        return Found(results, found, moved, described, shown)

    def variants(self, request: SearchRequest, own: str | None = None) -> list[VariantMessage]:
        """Changed versions of the request's text, and how the pictures move; see `search`."""
        return self._variants(PageRequest(**request.model_dump(), change=own), self._search(request, None))

    def encode_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Embeddings of texts."""
        return self._embeddings(self.gallery.retriever.encode_texts(texts))

    def encode_uploads(self, uploads: Sequence[bytes]) -> list[list[float]]:
        """Embeddings of uploaded pictures.

        Raises:
            UserError: If one cannot be read.
        """
        # one by one: each may take hundreds of megabytes
        encode = self.gallery.retriever.encode_images
        parts = [encode(open_upload(data, self._limits.pixels)) for data in uploads]
        return self._embeddings(Encoded.join(parts))

    def rendition(self, number: int, side: int) -> Rendition:
        """A picture as the page shows it; see `Renditions.of`.

        Raises:
            NoPictureError: If the gallery has no such picture.
        """
        return self._renditions.of(self._path(number), number, side)

    def _picture(self, request: SearchRequest, upload: bytes | None) -> Image.Image | Path | None:
        if upload is not None:
            return open_upload(upload, self._limits.pixels)
        return None if request.image_id is None else self._path(request.image_id)

    def _path(self, number: int) -> Path:
        try:
            return self.gallery.image_path(number)
        except UserError as error:
            raise NoPictureError from error

    def _search(self, request: SearchRequest, picture: Image.Image | Path | None) -> GalleryResults:
        if request.text is None and picture is None and not request.like:
            raise NothingAskedError("give a text, a picture or examples to search by")
        unlike: list[int | str] = [*request.unlike]
        if request.unlike_text is not None:
            unlike.append(request.unlike_text)
        return self.gallery.search(
            request.text,
            picture,
            text_weight=request.text_weight,
            like=request.like,
            unlike=unlike,
            where=request.where,
            k=request.k,
        )

    def _looks(self, text: str, ids: Sequence[int]) -> list[list[Look]]:
        try:
            images = self.gallery.store.items(ids)
        except KeyError:
            # an indexer has removed one since the search
            return []
        return looks(self.gallery.retriever, text, images)

    def _variants(self, request: PageRequest, results: GalleryResults) -> list[VariantMessage]:
        assert request.text is not None
        ranks = {hit.id: rank for rank, hit in enumerate(results.hits, start=1)}
        captions = [caption.split("\n")[0] for hit in results.hits if (caption := hit.fields.get("caption"))]
        # the last one differs most from what the query describes
        made = variants(request.text, self.gallery.retriever.tokenizer, captions[-1:], request.change)
        return [
            VariantMessage(
                kind=variant.kind,
                text=variant.text,
                kept=sum(hit.id in ranks for hit in hits),
                hits=[MovedHit(id=hit.id, score=hit.score, before=ranks.get(hit.id)) for hit in hits],
            )
            for variant in made
            for hits in [self.gallery.search(variant.text, where=request.where, k=request.k).hits]
        ]

    @staticmethod
    def _embeddings(encoded: Encoded) -> list[list[float]]:
        rows: list[list[float]] = encoded.numpy().tolist()
        return rows
