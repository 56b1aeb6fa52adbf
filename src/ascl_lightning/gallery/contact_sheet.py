"""A page with the pictures that searches found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ascl_lightning.data.images import open_image
from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.page.pictures import thumbnail
from ascl_lightning.gallery.gallery import Gallery, GalleryHit, GalleryResults
from ascl_lightning.runtime.files import write_file
from ascl_lightning.runtime.templates import render

_SIDE = 320


def write_contact_sheet(file: Path, gallery: Gallery, searches: Sequence[tuple[str, GalleryResults]]) -> None:
    """Writes an HTML page that holds its pictures.

    Args:
        file: File to write.
        gallery: The gallery that was searched.
        searches: Each query with its results.

    Raises:
        UnwritableError: If the file cannot be written.
    """
    shown = [(asked, results, [_card(gallery, hit) for hit in results.hits]) for asked, results in searches]
    write_file(file, render("gallery/contact_sheet.html.jinja", searches=shown, size=len(gallery)))


def _card(gallery: Gallery, hit: GalleryHit) -> dict[str, Any]:
    source = gallery.images / hit.path
    try:
        picture = thumbnail(open_image(source, _SIDE), _SIDE)
    except UserError:  # it was removed after the gallery was indexed
        picture = None
    return {"hit": hit, "picture": picture, "address": source.absolute().as_uri()}
