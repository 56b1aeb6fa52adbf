"""The cost of leak checks: digests of a split, against hashing all bytes of its images.

Uses Flickr8k's 6,000 training images, with `--root`, and a made-up record of a million images with two million
captions, which is compared with a test split of 5,000 images.
"""

import argparse
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
from plain import measure

from ascl_lightning.data.fingerprint import SplitDigest, picture_digests
from ascl_lightning.data.provenance import Provenance, Test
from ascl_lightning.data.sources import KarpathyJson, Split


def flickr8k(root: Path) -> None:
    split = KarpathyJson("dataset_flickr8k.json").read(root, "train")
    whole = timed("all bytes of the pictures", lambda: hash_files(split))
    timed("ends of the pictures, names, captions and words", lambda: SplitDigest.of(split))
    ends = timed("ends of the pictures", lambda: picture_digests(split))
    print(f"{len(split):,} images: all bytes / ends {whole / ends:.1f}")


def timed(name: str, run: Callable[[], object]) -> float:
    seconds, growth = measure(run)
    print(f"{name}: {seconds:.3f} s, {growth:.0f} MiB")
    return seconds


def hash_files(split: Split) -> list[bytes]:
    return [blake2b(path.read_bytes(), digest_size=8).digest() for path in split.images]


def a_million() -> None:
    numbers = np.arange(1, 1_000_001, dtype=np.uint64)
    trained = SplitDigest(numbers, numbers, np.repeat(numbers, 2), np.full(len(numbers), 2))
    rows = np.arange(1_000_001, 1_005_001, dtype=np.uint64)
    tested = SplitDigest(rows, rows, np.repeat(rows, 5), np.full(len(rows), 5))
    provenance = Provenance((trained,))
    timed("a million images: record to text", provenance.state)
    state = provenance.state()
    size = sum(len(column) for column in state["trainings"][0].values())
    timed("a million images: record from text", lambda: Provenance.from_state(state))
    test = Test("test", [str(row) for row in rows], tested)
    timed("a million images against 5,000", lambda: (provenance.leaks(test), provenance.unchecked(test)))
    print(f"{size / 2**20:.0f} MiB of text; {len(provenance.leaks(test))} leaks")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="folder of Flickr8k: dataset_flickr8k.json and images/")
    given = parser.parse_args()
    if given.root is not None:
        flickr8k(given.root)
    a_million()
