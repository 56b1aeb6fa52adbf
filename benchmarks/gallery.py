"""Whole searches in a gallery, indexing, and their memory (needs `make weights`).

1. A text query in 100,000 pictures with 16 regions of width 256, shortlist 64, against its parts in memory: the text
   tower, a half-precision product with top k, and the fused score of 64 pictures.
2. The captions of a picture, from 25,000 captions prepared once, against the image tower alone.
3. With --photos: indexing photos, against the image tower on pictures that are already decoded; and again with nothing
   new. --again says how many photos the latter has; they are indexed by a small tower.

Prints ratios, and how far memory grows.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from plain import measure
from synthetic_gallery import (
    REGIONS,
    TEXT,
    WIDTH,
    describe,
    median,
    random_items,
    times_of,
    usual_retriever,
    write_gallery,
)

from ascl_lightning import Retriever
from ascl_lightning.data.text import Vocabulary, WordTokenizer
from ascl_lightning.gallery.index import index
from ascl_lightning.gallery.pictures import read_picture
from ascl_lightning.models import ConvImageEncoder, FusedSimilarity, ImageTextModel, WordTransformer

SHORTLIST, CAPTIONS, SEARCHES = 64, 25_000, 1000


def search(retriever: Retriever, items: int, queries: int) -> None:
    """Parts 1 and 2."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = write_gallery(Path(folder), retriever, items, captions=CAPTIONS)
        halves = torch.randn(items, WIDTH).half()
        near = random_items("images", SHORTLIST, REGIONS, retriever.fingerprint, seed=0)
        picture = torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8)

        def parts() -> None:
            text = retriever.encode_texts([TEXT])
            F.linear(text.embeds.half(), halves).topk(SHORTLIST)
            retriever.model.similarity.compare(near.features, text.features)

        def whole() -> object:
            return gallery.search(TEXT, candidates=SHORTLIST)

        runs = {
            "search": whole,
            "its parts": torch.no_grad()(parts),
            "captions of a picture": lambda: gallery.captions_of(picture, candidates=SHORTLIST),
            "image tower": lambda: retriever.encode_images([picture]),
        }
        times = times_of(runs, queries)
        for name, of in times.items():
            print(f"{name:22s} {describe(of)}")
        middle = {name: median(of) for name, of in times.items()}
        print(f"ratio: search / its parts {middle['search'] / middle['its parts']:.2f}, ", end="")
        print(f"captions / image tower {middle['captions of a picture'] / middle['image tower']:.2f}")
        _, growth = measure(lambda: [whole() for _ in range(SEARCHES)], repeats=1)
        print(f"memory after the first searches: {SEARCHES:,} more add {growth:.0f} MiB")
        gallery.close()


def small_retriever() -> Retriever:
    """A small untrained model, whose speed does not matter."""
    towers = ConvImageEncoder(image_size=32, width=8, token_dim=16), WordTransformer(9, 8, 16, 1, 2)
    model = ImageTextModel(*towers, FusedSimilarity(embed_dim=16, num_heads=1))
    return Retriever(model, WordTokenizer(Vocabulary(("a",)), max_length=8, vocab_size=9))


def indexing(retriever: Retriever, photos: Path, number: int, again: int) -> None:
    """Part 3."""
    files = sorted(photos.iterdir())
    with tempfile.TemporaryDirectory() as root:
        some, out = copied(files[:number], Path(root) / "some"), Path(root) / "gallery"
        spec = retriever.image_spec
        pixels = torch.stack([read_picture(some, file.name, spec).pixels for file in sorted(some.iterdir())])
        retriever.encode_images(pixels[:64])
        bare, bare_memory = measure(lambda: retriever.encode_images(pixels), repeats=1)
        whole, memory = measure(lambda: index(retriever, some, out), repeats=1)
        print(
            f"indexing {number:,} photos {whole:.1f} s, {memory:.0f} MiB; the tower {bare:.1f} s, {bare_memory:.0f} MiB"
        )
        print(f"ratio: indexing / the tower {whole / bare:.3f}")
        many, out = copied(files[:again], Path(root) / "many"), Path(root) / "large"
        small = small_retriever()
        _, memory = measure(lambda: index(small, many, out), repeats=1)
        start = time.perf_counter()
        summary = index(small, many, out)
        print(f"indexing {summary.unchanged:,} photos again: {time.perf_counter() - start:.2f} s", end="")
        print(f" (first, by a small tower: {memory:.0f} MiB)")


def copied(files: list[Path], folder: Path) -> Path:
    """A folder with copies of some files."""
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--again", type=int, default=7000)
    given = parser.parse_args()
    retriever = usual_retriever()
    if given.queries:
        search(retriever, given.items, given.queries)
    if given.photos is not None:
        indexing(retriever, given.photos, given.number, given.again)


if __name__ == "__main__":
    main()
