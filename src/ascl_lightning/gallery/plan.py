"""Which pictures of a folder a gallery has to encode, move or forget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ascl_lightning.gallery.catalogue import Catalogue, Stamp
from ascl_lightning.gallery.pictures import Listing, hash_of_file
from ascl_lightning.runtime.threads import side_by_side


@dataclass
class Plan:
    """How to get from the catalogue to the folder's present content."""

    unchanged: dict[str, int] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    """Files with another time of change and the same content."""
    changed: dict[str, int] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    faults: dict[str, tuple[Stamp, str]] = field(default_factory=dict)
    """Stamp and reason of files that are known to be unreadable."""


def plan_changes(images: Path, listing: Listing, catalogue: Catalogue) -> Plan:
    """Compares the folder with the catalogue: by path and stamp first, then by hash."""
    known, unreadable = catalogue.stamps(), catalogue.unreadable()
    plan = Plan(faults=dict(listing.refused))
    unclaimed = {number: path for path, (number, _, _) in known.items()}
    remaining = []
    for path, stamp in listing.stamps.items():
        if path in known and known[path][1] == stamp:
            plan.unchanged[path] = known[path][0]
            del unclaimed[known[path][0]]
        elif path in unreadable and unreadable[path][0] == stamp:
            plan.faults[path] = unreadable[path]
        else:
            remaining.append(path)
    if unclaimed:
        remaining = _match_hashes(plan, images, remaining, known, unclaimed)
    for path in remaining:
        if path in known and known[path][0] in unclaimed:
            plan.changed[path] = known[path][0]
            del unclaimed[known[path][0]]
        else:
            plan.added.append(path)
    plan.removed = list(unclaimed)
    return plan


def _match_hashes(
    plan: Plan,
    images: Path,
    paths: Sequence[str],
    known: Mapping[str, tuple[int, Stamp, str]],
    unclaimed: dict[int, str],
) -> list[str]:
    """Finds files with the content of an item: of the item at their path, or else of one that lacks its file.

    Returns:
        The other paths.
    """
    hashes = dict(zip(paths, side_by_side(_hash, (images / path for path in paths)), strict=True))
    for path, found in hashes.items():
        if path in known and known[path][2] == found:
            plan.touched[path] = known[path][0]
            del unclaimed[known[path][0]]
    by_hash: dict[str, list[int]] = {}
    for number, path in unclaimed.items():
        by_hash.setdefault(known[path][2], []).append(number)
    for path, found in hashes.items():
        if path not in plan.touched and by_hash.get(found):
            plan.moved[path] = by_hash[found].pop(0)
            del unclaimed[plan.moved[path]]
    return [path for path in paths if path not in plan.touched and path not in plan.moved]


def _hash(file: Path) -> str:
    try:
        return hash_of_file(file)
    except OSError:
        return ""  # reading it as a picture gives the reason
