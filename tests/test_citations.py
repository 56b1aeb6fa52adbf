"""What code and documents cite exists: headings of `docs/*.md`, and the tests that hold the promises."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SEARCHED = ("src", "tests", "configs", "docs", "benchmarks", "notebooks")
SUFFIXES = {".py", ".md", ".yaml", ".jinja", ".ipynb", ".toml"}
FILES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", *(p for d in SEARCHED for p in (ROOT / d).rglob("*")))
    if path.suffix in SUFFIXES and path != Path(__file__)
)
CITATION = re.compile(r"\b(docs/\w+\.md)(?:#([\w-]+))?")


def slugs(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def faults(text: str) -> list[str]:
    """The citations of a text that lead nowhere."""
    return [
        found[0]
        for found in CITATION.finditer(text)
        if not (ROOT / found[1]).is_file() or (found[2] is not None and found[2] not in slugs(ROOT / found[1]))
    ]


def test_every_citation_leads_to_a_heading():
    texts = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in FILES}
    assert {str(path): wrong for path, text in texts.items() if (wrong := faults(text))} == {}
    cited = [found[2] for text in texts.values() for found in CITATION.finditer(text) if found[2]]
    assert len(cited) > 40


@pytest.mark.parametrize("nowhere", ["docs/method.md#losses", "docs/methods.md", "docs/reliability.md#exact"])
def test_a_citation_that_leads_nowhere_is_found(nowhere):
    assert faults(f"as docs/method.md#loss and ({nowhere}) say") == [nowhere]


def test_nothing_cites_what_is_not_in_the_tree():
    outside = re.compile(r"\bMETHOD\b|\bRELIABILITY\b")
    assert [str(path.relative_to(ROOT)) for path in FILES if outside.search(path.read_text(encoding="utf-8"))] == []


def test_the_layout_page_names_files_and_what_is_in_them():
    page = (ROOT / "docs/layout.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+(?:\.\w+)*(?:\.(?:py|jinja|md|toml)|/))`(?: \(((?:`[\w.]+`(?:, )?)+)\))?", page)
    roots = (ROOT / "src" / "ascl_lightning", ROOT)
    assert len(places) > 50
    wrong = []
    for path, names in places:
        found = next((root / path for root in roots if (root / path).exists()), None)
        text = found.read_text(encoding="utf-8") if found and found.is_file() else ""
        named = [name.rpartition(".")[2] for name in re.findall(r"[\w.]+", names)]
        if found is None or not all(re.search(rf"^\s*(def|class) {name}\b", text, re.MULTILINE) for name in named):
            wrong.append((path, names))
    assert wrong == []


def test_every_promise_names_a_test_that_exists():
    promises = re.findall(r"^\|.*\| `(\S+?)::(\w+)` \|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    assert len(promises) > 50
    functions = {
        file: {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        for file in {file for file, _ in promises}
    }
    assert [f"{file}::{name}" for file, name in promises if name not in functions[file]] == []
