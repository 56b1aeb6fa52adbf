"""Indexes a folder of pictures: encodes what is new or changed, and forgets what is gone.

Every step can be interrupted. Vectors are written before the catalogue names them; ids that only a store has are
leftovers of an interrupted run, which the next run removes.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np

from ascl_lightning.api import Retriever
from ascl_lightning.data.batch import PixelSpec
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.contents import Contents
from ascl_lightning.gallery.encoder import PICTURES_PER_STEP, Job, PictureEncoder
from ascl_lightning.gallery.manifest import CATALOGUE, MANIFEST, SUPPORT, Manifest, Origin, store_address
from ascl_lightning.gallery.pictures import Listing, list_pictures
from ascl_lightning.gallery.plan import plan_changes
from ascl_lightning.gallery.stores import prepare_searches, remove_replaced
from ascl_lightning.gallery.support import calibrate_support
from ascl_lightning.gallery.writer_lock import lock_for_writing
from ascl_lightning.runtime.distributed import rank, world_size
from ascl_lightning.runtime.files import require_writable_folder
from ascl_lightning.runtime.ranks import from_rank_0, share_of, wait_for_ranks


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

    In a process group, all ranks call it, with the same arguments: each encodes a share of the pictures.

    Args:
        retriever: The model that encodes the pictures.
        images: Folder of the pictures, read at any depth.
        out: Folder of the gallery; it is created.
        origin: Where the model comes from, so that a search can load it. None: as the gallery says, or else a search
            must be given the model.
        store: Address of a Milvus server that searches the vectors, such as `http://localhost:19530`, or a file
            `NAME.db` for Milvus Lite. None: as the gallery says; a new one keeps them in its folder alone.
        batch_size: Number of pictures per batch. It is halved when memory runs out.
        rebuild: Encode all pictures again, also with another model; the old gallery answers until that is complete.
        progress: Whether to show a progress bar.

    Returns:
        Counts of pictures.

    Raises:
        UserError: If a folder is missing or not writable, the store is not reached, another process writes the
            gallery, another model made it or its vectors lie in another store (the message has the command that
            rebuilds it), the folder has no picture any more, or another rank has ended.
    """
    if not isinstance(retriever.image_spec, PixelSpec):
        raise UserError("the model reads region features: a gallery needs a model that reads pictures")
    store = None if store is None else store_address(store)
    if rank() > 0:
        return _encode_share(retriever, images, out, batch_size)
    require_writable_folder(out)
    listing = list_pictures(images)
    with ExitStack() as stack:
        stack.callback(os.close, lock_for_writing(out))
        old = Manifest.read(out) if (out / MANIFEST).exists() else None
        replaces = rebuild and old is not None
        new = _new_manifest(retriever, images, origin, store, old, replaces)
        _refuse(old, new, out, listing)
        contents = stack.enter_context(closing(Contents.open(new, out)))
        if not replaces and old != new:
            new.write(out)
        summary = _update(retriever, images, listing, contents, new, out, batch_size, progress)
        if replaces:
            new.write(out)
        remove_replaced(new, out, (new.store, old.store if old else None))
        return from_rank_0(summary)


def _update(
    retriever: Retriever,
    images: Path,
    listing: Listing,
    contents: Contents,
    manifest: Manifest,
    out: Path,
    batch_size: int,
    progress: bool,
) -> IndexSummary:
    """Encodes what has changed, together with the other ranks, and prepares searches."""
    contents.adopt_parts(manifest, out)
    encoder = PictureEncoder(retriever, images, contents, batch_size, progress)
    indexer = _Indexer(images, listing, contents, encoder)
    jobs = from_rank_0((manifest, indexer.prepare()))[1]
    encoder.encode(_share(jobs))
    wait_for_ranks()
    contents.adopt_parts(manifest, out)
    summary = indexer.complete(jobs)
    support = out / manifest.contents / SUPPORT
    if summary.changes_gallery or not support.exists():
        calibrate_support(support, retriever, contents.catalogue, contents.pictures, contents.captions)
    prepare_searches((contents.pictures, contents.captions))
    return summary


def _encode_share(retriever: Retriever, images: Path, out: Path, batch_size: int) -> IndexSummary:
    """What the other ranks do: each writes a part of the gallery, which rank 0 takes over."""
    plan: tuple[Manifest, list[Job]] = from_rank_0(None)
    manifest, jobs = plan
    with closing(Contents.open(manifest, out, str(rank()))) as part:
        PictureEncoder(retriever, images, part, batch_size).encode(_share(jobs))
    wait_for_ranks()
    complete: IndexSummary = from_rank_0(None)
    return complete


def _share(jobs: Sequence[Job]) -> Sequence[Job]:
    return jobs[share_of(len(jobs), rank(), world_size())]


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


def _refuse(old: Manifest | None, new: Manifest, out: Path, listing: Listing) -> None:
    """Refuses to write a gallery of other weights or in another store, and to empty one."""
    if world_size() > 1 and (new.store or "").endswith(".db"):
        raise UserError("Milvus Lite serves one process: give --store the address of a server, or start one process")
    if old is None:
        return
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
    """Brings the contents of a gallery up to date, apart from encoding new pictures."""

    def __init__(self, images: Path, listing: Listing, contents: Contents, encoder: PictureEncoder) -> None:
        self._listing = listing
        self._catalogue = contents.catalogue
        self._pictures = contents.pictures
        self._captions = contents.captions
        self._encoder = encoder
        self._remove_leftovers()
        self._plan = plan_changes(images, listing, self._catalogue)
        self._described: set[int] = set()
        """Pictures with new captions or tags, which are not encoded again."""

    def prepare(self) -> list[Job]:
        """Applies all changes that need no encoding of pictures; returns which pictures are to be encoded."""
        plan, listing = self._plan, self._listing
        with self._catalogue.change():
            self._catalogue.remove(plan.removed)
            here = {**plan.moved, **plan.touched}
            self._catalogue.relocate({number: (path, listing.stamps[path]) for path, number in here.items()})
        self._pictures.delete(plan.removed)
        present = {**plan.unchanged, **here}
        self._described = self._update_captions(present) | self._update_tags(present)
        return self._jobs()

    def complete(self, jobs: Sequence[Job]) -> IndexSummary:
        """Removes what is no longer there, after the pictures were encoded."""
        plan, unreadable = self._plan, self._catalogue.unreadable()
        failed = {job.path: unreadable[job.path] for job in jobs if job.path in unreadable}
        lost = [number for path, number in plan.changed.items() if path in failed]
        self._catalogue.remove(lost)
        self._pictures.delete(lost)
        faults = plan.faults | failed
        self._catalogue.set_unreadable(faults, [path for path in unreadable if path not in faults])
        self._remove_leftovers()
        moved = {*plan.moved.values()}
        return IndexSummary(
            added=len(plan.added) - len(failed) + len(lost),
            changed=len(plan.changed) - len(lost) + len(self._described),
            moved=len(plan.moved),
            removed=len(plan.removed) + len(lost),
            unchanged=len(plan.unchanged) + len(plan.touched) - len(self._described - moved),
            unreadable={path: reason for path, (_, reason) in sorted(faults.items())},
        )

    def _remove_leftovers(self) -> None:
        """Makes stores and catalogue equal after an interruption."""
        rows, stored = self._catalogue.ids(), self._pictures.ids()
        self._pictures.delete(np.setdiff1d(stored, rows).tolist())
        self._catalogue.remove(np.setdiff1d(rows, stored).tolist())
        rows, stored = self._catalogue.caption_ids(), self._captions.ids()
        self._captions.delete(np.setdiff1d(stored, rows).tolist())

    def _jobs(self) -> list[Job]:
        """New and changed pictures, with the ids that they and their captions get."""
        plan, listing = self._plan, self._listing
        numbers = [*plan.changed.values(), *self._catalogue.new_ids(len(plan.added))]
        paths = [*plan.changed, *plan.added]
        captions = [listing.captions.get(path, ()) for path in paths]
        starts = np.cumsum([0, *map(len, captions)])
        first = self._catalogue.new_ids(int(starts[-1]), "captions").start
        return [
            Job(
                number,
                path,
                listing.stamps[path],
                of_picture,
                range(first + int(start), first + int(start) + len(of_picture)),
                listing.tags.get(path, ()),
            )
            for number, path, of_picture, start in zip(numbers, paths, captions, starts, strict=False)
        ]

    def _update_captions(self, present: Mapping[str, int]) -> set[int]:
        """Replaces the captions of pictures that are not encoded again; returns the ids of those that changed."""
        changed = _changed(present, self._listing.captions, self._catalogue.captions())
        numbers = list(changed)
        for start in range(0, len(numbers), PICTURES_PER_STEP):
            part = numbers[start : start + PICTURES_PER_STEP]
            ids = iter(self._catalogue.new_ids(sum(len(changed[number]) for number in part), "captions"))
            captions = {number: [(next(ids), text) for text in changed[number]] for number in part}
            self._encoder.encode_captions([pair for of_item in captions.values() for pair in of_item])
            self._catalogue.set_captions(captions)
        return set(changed)

    def _update_tags(self, present: Mapping[str, int]) -> set[int]:
        """As `_update_captions`."""
        changed = _changed(present, self._listing.tags, self._catalogue.tags())
        self._catalogue.set_tags(changed)
        return set(changed)


def _changed(
    present: Mapping[str, int], texts: Mapping[str, tuple[str, ...]], known: Mapping[int, tuple[str, ...]]
) -> dict[int, tuple[str, ...]]:
    """The texts of the pictures for which the catalogue has others."""
    found = {number: texts.get(path, ()) for path, number in present.items()}
    return {number: of_picture for number, of_picture in found.items() if of_picture != known.get(number, ())}
