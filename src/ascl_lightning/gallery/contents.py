"""What indexing writes: a catalogue and two stores; and parts of them, which other ranks write beside."""

from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.manifest import CAPTIONS, CATALOGUE, PICTURES, Manifest
from ascl_lightning.gallery.stores import Store, open_store

PARTS = "parts"
"""Folder with what ranks have encoded and rank 0 has not yet taken over."""


@dataclass(frozen=True)
class Contents:
    """Catalogue and stores of a gallery, or of a part of it, opened for writing."""

    catalogue: Catalogue
    pictures: Store
    captions: Store

    @classmethod
    def open(cls, manifest: Manifest, gallery: Path, part: str | None = None) -> "Contents":
        """Opens them.

        Args:
            manifest: The gallery's manifest.
            gallery: The gallery's folder.
            part: Name of a part; None: the gallery itself.

        Raises:
            UserError: If another process writes them, or they cannot be opened.
        """
        inside = Path() if part is None else Path(PARTS, part)
        pictures = open_store(manifest, gallery, PICTURES, "write", inside)
        try:
            captions = open_store(manifest, gallery, CAPTIONS, "write", inside)
            try:
                return cls(Catalogue(gallery / manifest.contents / inside / CATALOGUE, "write"), pictures, captions)
            except BaseException:
                captions.close()
                raise
        except BaseException:
            pictures.close()
            raise

    def close(self) -> None:
        """Releases the files."""
        self.catalogue.close()
        self.captions.close()
        self.pictures.close()

    def adopt_parts(self, manifest: Manifest, gallery: Path) -> None:
        """Takes over all parts, those of an interrupted run too, and removes them.

        Args:
            manifest: The gallery's manifest.
            gallery: The gallery's folder.

        Raises:
            UserError: If a process still writes a part, or one is damaged.
        """
        for folder in sorted((gallery / manifest.contents / PARTS).glob("*")):
            part = Contents.open(manifest, gallery, folder.name)
            try:
                self.pictures.adopt(part.pictures)
                self.captions.adopt(part.captions)
                self.catalogue.adopt(part.catalogue)
            finally:
                part.close()
            rmtree(folder)
