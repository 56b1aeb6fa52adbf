"""Reads a page that `ascl report` writes: its sections, its numbers and the files that these come from."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

from ascl_lightning.metrics.query_results import read_queries

SECTIONS = ("scores", "protocols", "card", "training", "similarity", "examples", "attention", "hard", "queries")
SECTIONS += ("checks", "provenance")


class Page(HTMLParser):
    """Collects what the tests ask for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.numbers: list[tuple[str, str, str]] = []
        """Value, source and shown text."""
        self.loose: list[str] = []
        """Numbers in cells of tables that name no source."""
        self._open: list[str] = []
        self._prose = False
        self._number: dict[str, str | None] | None = None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self._open.append(tag)
        if tag == "section":
            self.sections.append(found["id"])
        if found.get("id"):
            self.ids.append(found["id"])
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset") and value]
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag == "data":
            self._number = found
        if tag == "td":
            self._prose = found.get("class") == "prose"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open[-1:] == ["data"]:
            self.numbers.append((self._number["value"], self._number["data-source"], data))
        elif "td" in self._open and not self._prose and re.search(r"\d", data):
            self.loose.append(data)


def looked_up(run: Path, source: str) -> float:
    """The number that a source names, read from its file."""
    file, _, place = source.partition("#")
    path = run / file
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        for key in place.split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value
    if path.suffix == ".csv":
        row, _, column = place.partition("/")
        with path.open(newline="") as lines:
            return float(list(csv.DictReader(lines))[int(row)][column])
    score, protocol, direction, query, column = place.split("/")
    rows = read_queries(path)[score, protocol].directions()[direction].columns()
    return int(rows[column][rows["query"].tolist().index(int(query))])
