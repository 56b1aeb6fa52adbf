"""Folders of small pictures to index, and what a gallery of them holds."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from tests.helpers.retrievers import pictures

from ascl_lightning.gallery.catalogue import Catalogue
from ascl_lightning.gallery.exact_store import ExactStore
from ascl_lightning.gallery.manifest import CATALOGUE, PICTURES, Manifest
from ascl_lightning.search.encoded import Encoded

HALF = {"atol": 2e-3, "rtol": 0}
"""Tolerance of numbers that were stored as float16."""


def write_picture(file: Path, seed: int, *, mtime: int | None = None) -> None:
    """Writes noise, 48 x 40; the same for the same seed.

    Args:
        file: The PNG file.
        seed: Seed of the noise.
        mtime: Time of change in seconds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pictures(seed + 1)[seed].permute(1, 2, 0).numpy()).save(file)
    if mtime is not None:
        os.utime(file, (mtime, mtime))


def write_pictures(folder: Path, names: Iterable[str], captions: dict[str, list[str]] | None = None) -> list[Path]:
    """Writes pictures, each of another seed, and their captions. Returns the files."""
    files = [folder / name for name in names]
    for seed, file in enumerate(files):
        write_picture(file, seed)
    for name, lines in (captions or {}).items():
        (folder / name).with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return files


def contents_of(out: Path) -> dict[str, tuple[Encoded, dict]]:
    """Encoded picture and fields, by path, of a gallery; without ids and dates of files."""
    folder = out / Manifest.read(out).contents
    with Catalogue(folder / CATALOGUE) as catalogue:
        fields = catalogue.fields(catalogue.ids().tolist())
        captions = catalogue.captions()
    store = ExactStore(folder / PICTURES)
    assert store.ids().tolist() == sorted(fields)
    return {
        row["path"]: (store.items([number]), {**row, "id": None, "captions": captions.get(number, ())})
        for number, row in fields.items()
    }


def ids_by_path(out: Path) -> dict[str, int]:
    with Catalogue(out / Manifest.read(out).contents / CATALOGUE) as catalogue:
        return {path: number for path, (number, _, _) in catalogue.stamps().items()}


def assert_same_contents(found: Path, expected: Path) -> None:
    first, second = contents_of(found), contents_of(expected)
    assert first.keys() == second.keys()
    for path, (encoded, fields) in first.items():
        assert fields == second[path][1]
        assert torch.allclose(encoded.embeds, second[path][0].embeds, **HALF)
        assert torch.allclose(encoded.features.tokens, second[path][0].features.tokens, **HALF)
