"""Forms of the results of `ascl search`: lines, JSON, CSV, file names, and a page."""

import argparse
import csv
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ascl_lightning.gallery.contact_sheet import write_contact_sheet
from ascl_lightning.gallery.gallery import CaptionHit, Duplicates, Gallery, GalleryHit, GalleryResults

_DIGITS = 6
"""Decimal places of scores in JSON and CSV; the last digits of float32 differ between machines."""


class Output(ABC):
    """Prints results as they come.

    Args:
        gallery: The gallery that was searched.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.found = False

    @abstractmethod
    def results(self, asked: str, results: GalleryResults) -> None:
        """Prints the results of one query."""

    @abstractmethod
    def captions(self, asked: str, hits: Sequence[CaptionHit]) -> None:
        """Prints the captions for one picture."""

    @abstractmethod
    def duplicates(self, pairs: Iterable[Duplicates]) -> None:
        """Prints pairs of pictures."""

    def close(self) -> bool:
        """Ends the output. Returns whether anything was found."""
        sys.stdout.flush()
        return self.found

    def file(self, path: str) -> str:
        """The file of a picture."""
        return str(self.gallery.images / path)


class Lines(Output):
    """Score, id and file, separated by tabs. Each query of several has a heading."""

    def __init__(self, gallery: Gallery, with_heading: bool) -> None:
        super().__init__(gallery)
        self._with_heading = with_heading

    def results(self, asked: str, results: GalleryResults) -> None:
        """See `Output`."""
        if self._with_heading:
            print(f"# {asked}")
        for hit in results.hits:
            self._line(f"{hit.score:.3f}", str(hit.id), self.file(hit.path))

    def captions(self, asked: str, hits: Sequence[CaptionHit]) -> None:
        """See `Output`."""
        for hit in hits:
            self._line(f"{hit.score:.3f}", str(hit.id), hit.text)

    def duplicates(self, pairs: Iterable[Duplicates]) -> None:
        """See `Output`."""
        for pair in pairs:
            self._line(f"{pair.score:.3f}", *map(self.file, pair.paths))

    def _line(self, *cells: str) -> None:
        self.found = True
        print("\t".join(cells))


class JsonLines(Output):
    """One object per query, or per pair of duplicates."""

    def results(self, asked: str, results: GalleryResults) -> None:
        """See `Output`."""
        hits = [
            {
                "id": hit.id,
                "file": self.file(hit.path),
                "score": round(hit.score, _DIGITS),
                "scores": _rounded(hit),
                "fields": dict(hit.fields),
            }
            for hit in results.hits
        ]
        self._line({"query": asked, "hits": hits, "unsupported": results.unsupported, "reason": results.reason}, hits)

    def captions(self, asked: str, hits: Sequence[CaptionHit]) -> None:
        """See `Output`."""
        found = [
            {"caption": hit.text, "id": hit.id, "file": self.file(hit.path), "score": round(hit.score, _DIGITS)}
            for hit in hits
        ]
        self._line({"query": asked, "captions": found}, found)

    def duplicates(self, pairs: Iterable[Duplicates]) -> None:
        """See `Output`."""
        for pair in pairs:
            files = [self.file(path) for path in pair.paths]
            self._line({"ids": pair.ids, "files": files, "score": round(pair.score, _DIGITS)}, pair)

    def _line(self, content: dict[str, Any], found: Any) -> None:
        self.found = self.found or bool(found)
        print(json.dumps(content, ensure_ascii=False))


class Table(Output):
    """CSV with a header."""

    def __init__(self, gallery: Gallery) -> None:
        super().__init__(gallery)
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._has_header = False

    def results(self, asked: str, results: GalleryResults) -> None:
        """See `Output`."""
        for rank, hit in enumerate(results.hits, start=1):
            fields = {name: value for name, value in hit.fields.items() if name not in ("id", "path", "folder", "name")}
            about = {"query": asked, "rank": rank, "id": hit.id, "file": self.file(hit.path)}
            self._row({**about, "score": round(hit.score, _DIGITS), **_rounded(hit), **fields})

    def captions(self, asked: str, hits: Sequence[CaptionHit]) -> None:
        """See `Output`."""
        for rank, hit in enumerate(hits, start=1):
            about = {"query": asked, "rank": rank, "id": hit.id, "file": self.file(hit.path)}
            self._row({**about, "score": round(hit.score, _DIGITS), "caption": hit.text})

    def duplicates(self, pairs: Iterable[Duplicates]) -> None:
        """See `Output`."""
        for pair in pairs:
            (first, second), files = pair.ids, [self.file(path) for path in pair.paths]
            score = round(pair.score, _DIGITS)
            self._row({"id": first, "file": files[0], "other_id": second, "other_file": files[1], "score": score})

    def _row(self, cells: dict[str, Any]) -> None:
        self.found = True
        if not self._has_header:
            self._writer.writerow(cells)
            self._has_header = True
        self._writer.writerow(cells.values())


class Paths(Output):
    """Files alone, each ended by a zero byte."""

    def results(self, asked: str, results: GalleryResults) -> None:
        """See `Output`."""
        self._files(hit.path for hit in results.hits)

    def captions(self, asked: str, hits: Sequence[CaptionHit]) -> None:
        """See `Output`."""
        self._files(hit.path for hit in hits)

    def duplicates(self, pairs: Iterable[Duplicates]) -> None:
        """Prints the second picture of each pair, without which no pair would be left."""
        self._files(dict.fromkeys(pair.paths[1] for pair in pairs))

    def _files(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.found = True
            print(self.file(path), end="\0")


class Page(Lines):
    """Lines, and an HTML page with the pictures."""

    def __init__(self, gallery: Gallery, with_heading: bool, file: Path) -> None:
        super().__init__(gallery, with_heading)
        self._file = file
        self._searches: list[tuple[str, GalleryResults]] = []

    def results(self, asked: str, results: GalleryResults) -> None:
        """See `Output`."""
        super().results(asked, results)
        self._searches.append((asked, results))

    def close(self) -> bool:
        """Writes the page. Returns whether anything was found."""
        write_contact_sheet(self._file, self.gallery, self._searches)
        print(f"Page: {self._file}", file=sys.stderr)
        return super().close()


def output_of(given: argparse.Namespace, gallery: Gallery) -> Output:
    """The output that the flags ask for."""
    with_heading = given.queries is not None
    if given.out is not None:
        return Page(gallery, with_heading, given.out)
    if given.json or given.csv or given.paths0:
        kind = JsonLines if given.json else Table if given.csv else Paths
        return kind(gallery)
    return Lines(gallery, with_heading)


def _rounded(hit: GalleryHit) -> dict[str, float]:
    return {name: round(score, _DIGITS) for name, score in hit.scores.items()}
