"""Indexes a folder of pictures: encodes what is new or changed, and forgets what is gone.

Every step can be interrupted. Vectors are written before the catalogue names them; ids that only a store has are
leftovers of an interrupted run, which the next run removes.
"""

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from ascl_lightning.api import Retriever
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Catalogue, Item
from ascl_lightning.gallery.manifest import (
    CAPTIONS,
    CATALOGUE,
    MANIFEST,
    PICTURES,
    SUPPORT,
    Manifest,
    Origin,
    store_address,
)
from ascl_lightning.gallery.pictures import Fault, Listing, Picture, list_pictures, read_picture
from ascl_lightning.gallery.plan import Plan, plan_changes
from ascl_lightning.gallery.store import VectorStore
from ascl_lightning.gallery.stores import open_store, remove_replaced
from ascl_lightning.gallery.support import calibrate_support
from ascl_lightning.gallery.writer_lock import lock_for_writing
from ascl_lightning.runtime.files import require_writable_folder
from ascl_lightning.runtime.threads import side_by_side
from ascl_lightning.search.encoded import Encoded

_PICTURES_PER_STEP = 256
"""Pictures that become durable together: what a killed process has to encode again at most."""


@dataclass(frozen=True)
class IndexSummary:
    """What `index` did, in numbers of pictures.

    Args:
        added: New pictures.
        changed: Pictures with new content, which were encoded again, or new captions or tags.
        moved: Pictures that have another path; their vectors are the same.
        removed: Pictures that are no longer there.
        unchanged: Pictures that were left as they are.
        unreadable: Reason of each picture that cannot be read, by path. The gallery does not have it.
    """

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    unreadable: Mapping[str, str]

    @property
    def changes_gallery(self) -> bool:
        """Whether the gallery has other pictures, captions or tags than before."""
        return bool(self.added or self.changed or self.removed)


def index(
    retriever: Retriever,
    images: Path,
    out: Path,
    *,
    origin: Origin | None = None,
    store: str | None = None,
    batch_size: int = 64,
    rebuild: bool = False,
    progress: bool = False,
) -> IndexSummary:
    """Makes the gallery of a folder of pictures, or brings it up to date.

    A picture is the same if its path, size and time of change are, or else the hash of its content. A text file
    `NAME.txt` beside `NAME.jpg` holds captions, one per line; `metadata.jsonl` or `metadata.csv` has tags. Killed at
    any moment, the next call continues.

    Args:
        retriever: The model that encodes the pictures.
        images: Folder of the pictures, read at any depth.
        out: Folder of the gallery; it is created.
        origin: Where the model comes from, so that a search can load it. None: as the gallery says, or else a search
            must be given the model.
        store: Address of a Milvus server that searches the vectors, such as `http://localhost:19530`, or a file
            `NAME.db` for Milvus Lite. None: as the gallery says; a new one keeps them in its folder alone.
        batch_size: Number of pictures per batch. It is halved when memory runs out.
        rebuild: Encode all pictures again, also with another model; until all are, the old gallery answers. The next
            rebuild goes on with one that was interrupted.
        progress: Whether to show a progress bar.

    Returns:
        Counts of pictures.

    Raises:
        UserError: If a folder is missing or not writable, the store is not reached, another process writes the
            gallery, another model made it or its vectors lie in another store (the message has the command that
            rebuilds it), or the folder has no picture any more.
    """
    if not isinstance(retriever.image_spec, PixelSpec):
        raise UserError("the model reads region features: a gallery needs a model that reads pictures")
    store = None if store is None else store_address(store)
    require_writable_folder(out)
    listing = list_pictures(images)
    with ExitStack() as stack:
        stack.callback(os.close, lock_for_writing(out))
        old = Manifest.read(out) if (out / MANIFEST).exists() else None
        replaces = rebuild and old is not None
        new = _new_manifest(retriever, images, origin, store, old, replaces)
        if old is not None:
            _refuse(old, new, out, listing)
        contents = out / new.contents
        pictures = stack.enter_context(closing(open_store(new, out, PICTURES, "write")))
        captions = stack.enter_context(closing(open_store(new, out, CAPTIONS, "write")))
        catalogue = stack.enter_context(closing(Catalogue(contents / CATALOGUE, "write")))
        if not replaces and old != new:
            new.write(out)
        summary = _Indexer(retriever, images, catalogue, pictures, captions, batch_size, progress).run(listing)
        if summary.changes_gallery or not (contents / SUPPORT).exists():
            calibrate_support(contents / SUPPORT, retriever, catalogue, pictures, captions)
        if replaces:
            new.write(out)
        remove_replaced(new, out, (new.store, old.store if old else None))
    return summary


def _new_manifest(
    retriever: Retriever, images: Path, origin: Origin | None, store: str | None, old: Manifest | None, replaces: bool
) -> Manifest:
    """What the gallery will say of itself; an origin that is not given stays that of the same model."""
    new = Manifest(retriever.fingerprint, str(images.resolve()), origin or Origin(), id=uuid4().hex[:16], store=store)
    if old is None:
        return new
    return replace(
        new,
        origin=old.origin if origin is None and old.model == new.model else new.origin,
        build=old.build + replaces,
        id=old.id or new.id,
        store=store or old.store,
    )


def _refuse(old: Manifest, new: Manifest, out: Path, listing: Listing) -> None:
    """Refuses to write a gallery of other weights or in another store, and to empty one."""
    if old.build == new.build and old.model != new.model:
        raise UserError(
            f"'{out}' was made with other weights; to encode all pictures with these, run: {new.rebuild_command(out)}"
        )
    if old.build == new.build and old.store != new.store:
        raise UserError(
            f"'{out}' has its vectors in {old.store or 'its folder'}; to encode all pictures for {new.store}, run: "
            f"{new.rebuild_command(out)}"
        )
    if listing.stamps:
        return
    with Catalogue(out / old.contents / CATALOGUE, "write") as catalogue:
        if len(catalogue):
            raise UserError(
                f"--images {new.images}: has no picture, and the gallery has {len(catalogue):,}: check that "
                "the disk is mounted; to start with an empty gallery, remove its folder"
            )


class _Indexer:
    def __init__(
        self,
        retriever: Retriever,
        images: Path,
        catalogue: Catalogue,
        pictures: VectorStore,
        captions: VectorStore,
        batch_size: int,
        progress: bool,
    ) -> None:
        self._retriever = retriever
        self._images = images
        self._catalogue = catalogue
        self._pictures = pictures
        self._captions = captions
        self._batch_size = batch_size
        self._progress = progress

    def run(self, listing: Listing) -> IndexSummary:
        self._remove_leftovers()
        plan = plan_changes(self._images, listing, self._catalogue)
        with self._catalogue.change():
            self._catalogue.remove(plan.removed)
            here = {**plan.moved, **plan.touched}
            self._catalogue.relocate({number: (path, listing.stamps[path]) for path, number in here.items()})
        self._pictures.delete(plan.removed)
        present = {**plan.unchanged, **here}
        described = self._update_captions(listing, present) | self._update_tags(listing, present)
        added, changed = self._encode(plan, listing)
        gone = [path for path in self._catalogue.unreadable() if path not in plan.faults]
        self._catalogue.set_unreadable(plan.faults, gone)
        self._remove_leftovers()
        return IndexSummary(
            added=added,
            changed=changed + len(described),
            moved=len(plan.moved),
            removed=len(plan.removed),
            unchanged=len(plan.unchanged) + len(plan.touched) - len(described - {*plan.moved.values()}),
            unreadable={path: reason for path, (_, reason) in sorted(plan.faults.items())},
        )

    def _remove_leftovers(self) -> None:
        """Makes stores and catalogue equal after an interruption."""
        rows, stored = self._catalogue.ids(), self._pictures.ids()
        self._pictures.delete(np.setdiff1d(stored, rows).tolist())
        self._catalogue.remove(np.setdiff1d(rows, stored).tolist())
        rows, stored = self._catalogue.caption_ids(), self._captions.ids()
        self._captions.delete(np.setdiff1d(stored, rows).tolist())

    def _update_captions(self, listing: Listing, present: Mapping[str, int]) -> set[int]:
        """Replaces the captions of pictures that are not encoded again; returns the ids of those that changed."""
        known = self._catalogue.captions()
        changed = {
            number: listing.captions.get(path, ())
            for path, number in present.items()
            if listing.captions.get(path, ()) != known.get(number, ())
        }
        numbers = list(changed)
        for start in range(0, len(numbers), _PICTURES_PER_STEP):
            part = {number: changed[number] for number in numbers[start : start + _PICTURES_PER_STEP]}
            ids = self._store_captions(part)
            self._catalogue.set_captions(
                {number: list(zip(ids[number], texts, strict=True)) for number, texts in part.items()}
            )
        return set(changed)

    def _update_tags(self, listing: Listing, present: Mapping[str, int]) -> set[int]:
        """Replaces the tags of pictures that are not encoded again; returns the ids of those that changed."""
        known = self._catalogue.tags()
        changed = {
            number: listing.tags.get(path, ())
            for path, number in present.items()
            if listing.tags.get(path, ()) != known.get(number, ())
        }
        self._catalogue.set_tags(changed)
        return set(changed)

    def _store_captions(self, captions: Mapping[int, Sequence[str]]) -> dict[int, list[int]]:
        """Encodes and stores captions by item; returns their ids."""
        texts = [text for of_item in captions.values() for text in of_item]
        if not texts:
            return {number: [] for number in captions}
        numbers = self._catalogue.new_ids(len(texts), "captions")
        self._captions.upsert(numbers, self._retriever.encode_texts(texts))
        remaining = iter(numbers)
        return {number: list(islice(remaining, len(of_item))) for number, of_item in captions.items()}

    def _encode(self, plan: Plan, listing: Listing) -> tuple[int, int]:
        """Encodes new and changed pictures; returns how many of each."""
        spec = self._retriever.image_spec
        assert isinstance(spec, PixelSpec)
        added = changed = 0
        paths = [*plan.changed, *plan.added]
        # threads read ahead while a part is encoded
        read = side_by_side(lambda path: read_picture(self._images, path, spec), paths)
        for part in _parts(_track(read, len(paths), self._progress), _PICTURES_PER_STEP):
            faults = [one for one in part if isinstance(one, Fault)]
            plan.faults |= {fault.path: (listing.stamps[fault.path], fault.reason) for fault in faults}
            lost = [plan.changed[fault.path] for fault in faults if fault.path in plan.changed]
            self._catalogue.remove(lost)
            self._pictures.delete(lost)
            plan.removed += lost
            readable = [one for one in part if isinstance(one, Picture)]
            if not readable:
                continue
            items = {one.path: _item(one, listing) for one in readable}
            fresh = iter(self._catalogue.new_ids(sum(path not in plan.changed for path in items)))
            numbered = {plan.changed[path] if path in plan.changed else next(fresh): items[path] for path in items}
            self._pictures.upsert(list(numbered), self._encode_pictures(readable))
            ids = self._store_captions({number: item.captions for number, item in numbered.items()})
            self._catalogue.put(numbered, ids)
            again = sum(path in plan.changed for path in items)
            added, changed = added + len(items) - again, changed + again
        return added, changed

    def _encode_pictures(self, pictures: Sequence[Picture]) -> Encoded:
        pixels = torch.stack([picture.pixels for picture in pictures])
        while True:
            try:
                return self._retriever.encode_images(pixels, batch_size=self._batch_size)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self._batch_size == 1:
                    raise UserError("there is not enough memory to encode a single picture") from error
            # outside the handler, whose traceback holds the tensors
            self._batch_size //= 2
            gc.collect()
            torch.cuda.empty_cache()


def _item(picture: Picture, listing: Listing) -> Item:
    facts = picture.facts
    return Item(
        picture.path,
        listing.stamps[picture.path],
        picture.hash,
        facts.width,
        facts.height,
        facts.taken,
        listing.captions.get(picture.path, ()),
        listing.tags.get(picture.path, ()),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in said
        or "can't allocate memory" in said
    )


def _parts(items: Iterable[Picture | Fault], size: int) -> Iterator[list[Picture | Fault]]:
    remaining = iter(items)
    while part := list(islice(remaining, size)):
        yield part


def _track(items: Iterator[Picture | Fault], total: int, shown: bool) -> Iterable[Picture | Fault]:
    if not shown or not total:
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, "Encoding pictures", total, console=Console(stderr=True))
