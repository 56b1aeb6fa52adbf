"""A gallery of a few drawn pictures that finds words of their captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from tests.helpers.retrievers import small

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.gallery import CaptionHit, Gallery, GalleryHit, GalleryResults
from ascl_lightning.search.encoded import Encoded

COLOURS = ("red", "blue", "green", "yellow")
SHAPES = ("kite", "ball", "box")
CAPTIONS = tuple(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)
FIRST = 7
"""Id of the first picture; ids are not places in a list."""


def draw(folder: Path) -> None:
    """Draws a picture for each caption, every third one upright."""
    for number, caption in enumerate(CAPTIONS):
        _, colour, shape = caption.split()
        size = (96, 64) if number % 3 else (64, 96)
        image = Image.new("RGB", size, "white")
        box = (size[0] / 2 - 24, size[1] / 2 - 24, size[0] / 2 + 24, size[1] / 2 + 24)
        pen = ImageDraw.Draw(image)
        if shape == "ball":
            pen.ellipse(box, fill=colour)
        elif shape == "box":
            pen.rectangle(box, fill=colour)
        else:
            pen.polygon(
                [(box[0], size[1] / 2), (size[0] / 2, box[1]), (box[2], size[1] / 2), (size[0] / 2, box[3])], colour
            )
        image.save(folder / f"{number}.jpg", quality=95)


class DrawnGallery(Gallery):
    """Ranks by the share of the query's words in the caption, and by a picture by the distance of mean colours.

    Args:
        folder: Where `draw` wrote the pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.retriever, self.store = small(), self
        self.asked: list[dict[str, Any]] = []
        self._files = [folder / f"{number}.jpg" for number in range(len(CAPTIONS))]
        self.sizes = [Image.open(file).size for file in self._files]
        self._items = self.retriever.encode_images(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def items(self, ids: Sequence[int]) -> Encoded:
        return self._items[[number - FIRST for number in ids]]

    def image_path(self, number: int) -> Path:
        if not FIRST <= number < FIRST + len(self):
            raise UserError(f"the gallery has no picture with id {number}")
        return self._files[number - FIRST]

    def captions_of(self, image: Any, k: int = 10) -> list[CaptionHit]:
        return [CaptionHit(hit.fields["caption"], hit.id, hit.path, hit.score) for hit in self._by_picture(image)[:k]]

    def search(self, text: str | None = None, image: Any = None, **settings: Any) -> GalleryResults:
        self.asked.append({"text": text, "image": image, **settings})
        if settings.get("where") == "no filter":
            raise UserError("--where 'no filter': expected a comparison at 'no'")
        if settings.get("where") == "year>3000":
            return GalleryResults([], [], "none of the 12 pictures fulfils --where 'year>3000'")
        hits = self._by_picture(image) if image is not None else self._by_text(text or "")
        words = (text or "").split()
        unsupported = [word for word in words if not any(word in caption.split() for caption in CAPTIONS)]
        return GalleryResults(hits[: settings["k"]], unsupported, None)

    def close(self) -> None:
        pass

    def _by_text(self, text: str) -> list[GalleryHit]:
        words = set(text.split())
        scores = [len(words & set(caption.split())) / max(1, len(words)) for caption in CAPTIONS]
        return self._ranked(scores)

    def _by_picture(self, image: Any) -> list[GalleryHit]:
        def colour(picture: Any) -> tuple[float, ...]:
            opened = Image.open(picture) if isinstance(picture, Path) else picture
            return tuple(opened.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)))

        own = colour(image)
        distances = [
            sum(abs(one - other) for one, other in zip(own, colour(file), strict=True)) for file in self._files
        ]
        return self._ranked([1 - distance / 765 for distance in distances])

    def _ranked(self, scores: Sequence[float]) -> list[GalleryHit]:
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return [
            GalleryHit(
                FIRST + number,
                f"{number}.jpg",
                scores[number],
                {"independent": scores[number] / 2, "fused": scores[number]},
                {"caption": CAPTIONS[number], "width": self.sizes[number][0], "height": self.sizes[number][1]},
            )
            for number in order
        ]
