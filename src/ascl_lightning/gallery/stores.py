"""Opens the stores of a gallery, where its manifest says: in its folder alone, or also in Milvus."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.database import Mode
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.ivf_store import IvfStore
from ascl_lightning.gallery.manifest import Manifest
from ascl_lightning.gallery.milvus_store import MilvusStore, drop_collections

Store = ExactStore | MilvusStore


def open_store(manifest: Manifest, gallery: Path, name: str, mode: Mode = "read", part: Path | str = "") -> Store:
    """Opens one of the stores of a gallery.

    Args:
        manifest: The gallery's manifest.
        gallery: The gallery's folder.
        name: `PICTURES` or `CAPTIONS`.
        mode: Whether to write.
        part: Folder of a part of the gallery, inside that of its contents.

    Raises:
        UserError: If it cannot be opened.
    """
    folder = gallery / manifest.contents / part / name
    if manifest.store is None:
        return IvfStore(folder, mode)
    # all parts of a gallery are in one collection
    return MilvusStore(manifest.store, _collection(manifest, manifest.contents, name), folder, mode, shared=True)


def prepare_searches(stores: Iterable[Store]) -> None:
    """Builds or renews the indexes of large stores that search in this process.

    Raises:
        UserError: If an index cannot be written.
    """
    for store in stores:
        if isinstance(store, IvfStore):
            store.update_index()


def remove_replaced(manifest: Manifest, gallery: Path, stores: Iterable[str | None]) -> None:
    """Removes the contents of earlier builds, and their collections.

    Args:
        manifest: The present manifest.
        gallery: The gallery's folder.
        stores: Where collections may be. A server that does not answer keeps them.
    """
    for folder in manifest.replaced(gallery):
        for store in sorted({store for store in stores if store is not None}):
            with suppress(UserError):
                drop_collections(store, _collection(manifest, folder.name))
        rmtree(folder, ignore_errors=True)


def _collection(manifest: Manifest, contents: str, name: str = "") -> str:
    """Name of a collection; another one for each gallery and build. Without a name, how all of them begin."""
    return f"ascl_{manifest.id}_{contents.replace('-', '_')}__{name}"
