"""`ascl search`: every form of output, batches of queries, and mistakes in one line."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.galleries import write_pictures
from tests.helpers.retrievers import small

from ascl_lightning import Gallery
from ascl_lightning.__main__ import main
from ascl_lightning.gallery import gallery as gallery_module

NAMES = ["a.png", "b.png", "sub/c d.png"]
CAPTIONS = {"a.png": ["a red kite"], "b.png": ["two dogs", "a dog"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gallery")
    write_pictures(root / "images", NAMES, CAPTIONS)
    Gallery.index(root / "images", root / "out", small()).close()
    return root / "out"


@pytest.fixture
def ask(folder: Path, monkeypatch, capsys):
    """Runs a search; returns exit code, output and messages."""
    monkeypatch.setattr(gallery_module, "load_model", lambda *_: small())

    def run(*flags: str) -> tuple[int, str, str]:
        code = main(["search", *flags, "--gallery", str(folder)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def expected(folder: Path, *args, **options) -> list:
    return Gallery.open(folder, small()).search(*args, **options).hits


def test_lines_are_score_id_and_file(ask, folder: Path) -> None:
    code, out, _ = ask("a red kite", "--k", "2")
    hits = expected(folder, "a red kite", k=2)
    images = folder.parent / "images"
    assert code == 0
    assert out == "".join(f"{hit.score:.3f}\t{hit.id}\t{images / hit.path}\n" for hit in hits)


def test_json_has_everything(ask, folder: Path) -> None:
    out = ask("a red umbrella", "--json", "--unlike", "two dogs", "--unlike", "1", "--like", "0")[1]
    (found,) = map(json.loads, out.splitlines())
    hits = expected(folder, "a red umbrella", like=[0], unlike=["two dogs", 1])
    assert found["query"] == "a red umbrella"
    assert "umbrella" in found["unsupported"]
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in hits]
    assert [hit["scores"] for hit in found["hits"]] == [pytest.approx(hit.scores, abs=1e-5) for hit in hits]
    assert [hit["fields"] for hit in found["hits"]] == [hit.fields for hit in hits]


def test_csv_has_a_header_and_a_row_per_hit(ask, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("a red kite\n\ntwo dogs\n", encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(ask("--queries", str(tmp_path / "queries.txt"), "--csv")[1])))
    assert [(row["query"], row["rank"]) for row in rows] == [
        (query, str(rank)) for query in ("a red kite", "two dogs") for rank in (1, 2, 3)
    ]
    by_id = {row["id"]: row for row in rows}
    assert by_id["1"]["caption"] == "two dogs\na dog"
    assert (by_id["1"]["width"], by_id["1"]["year"]) == ("48", "")


def test_queries_of_standard_input_have_headings(ask, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two dogs\na kite\n")))
    out = ask("--queries", "-", "--k", "1")[1].splitlines()
    assert [line for line in out if line.startswith("#")] == ["# two dogs", "# a kite"]
    assert len(out) == 4


def test_paths_are_ended_by_zero_bytes(ask, folder: Path) -> None:
    out = ask("a kite", "--paths0")[1]
    assert sorted(out.split("\0")) == ["", *(str(folder.parent / "images" / name) for name in NAMES)]


def test_captions_of_a_picture(ask, folder: Path) -> None:
    image = str(folder.parent / "images" / "b.png")
    lines = [line.split("\t") for line in ask("--image", image, "--captions")[1].splitlines()]
    assert {text for _, _, text in lines} == {"a red kite", "two dogs", "a dog"}
    assert [score for score, _, _ in lines] == sorted((score for score, _, _ in lines), reverse=True)
    (found,) = map(json.loads, ask("--image", image, "--captions", "--json")[1].splitlines())
    assert len(found["captions"]) == 3


def test_duplicates(ask) -> None:
    code, out, _ = ask("--duplicates", "-1")
    assert code == 0
    assert len(out.splitlines()) == 3  # all pairs
    assert ask("--duplicates", "1.1")[0] == 1


def test_the_page_has_the_pictures_and_escapes_the_query(ask, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = ask("a <b>red</b> umbrella", "--out", str(page))
    content = page.read_text(encoding="utf-8")
    assert code == 0
    assert len(out.splitlines()) == content.count('src="data:image/webp;base64,') == 3
    assert "a &lt;b&gt;red&lt;/b&gt; umbrella" in content
    assert "No hit shows: " in content
    assert f"Page: {page}" in err
    assert "c%20d.png" in content
    assert not re.search(r'(src|href)="https?:', content)


def test_words_without_support_and_reasons_are_said_on_standard_error(ask) -> None:
    _, out, err = ask("a dog and an umbrella")
    assert "umbrella" not in out
    assert re.match(r"No hit shows: .*umbrella", err)
    code, out, err = ask("a dog", "--where", "year >= 2024")
    assert (code, out) == (1, "")
    assert err == "Nothing found: none of the 3 pictures fulfils --where 'year >= 2024'\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give a sentence"),
        (["a dog", "--queries", "x"], "not both"),
        (["--queries", "nowhere.txt"], "cannot be read"),
        (["--image", "nowhere.jpg"], "no such image file"),
        (["a dog", "--captions"], "give --image alone"),
        (["--image", "x.jpg", "--captions", "--paths0"], "leave out --paths0"),
        (["--duplicates", "--out", "x.html"], "leave out --out"),
        (["a dog", "--like", "99"], "no picture with id 99"),
        (["a dog", "--where", "yaer = 1"], "did you mean 'year'"),
        (["a dog", "--out", "/dev/null/x"], "cannot write"),
        ([" "], "blank"),
    ],
)
def test_mistakes_are_one_line(ask, flags: list[str], said: str) -> None:
    code, out, err = ask(*flags)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("ascl: error: ")
    assert said in line


def test_what_is_no_gallery_is_named(tmp_path: Path, capsys) -> None:
    assert main(["search", "a dog", "--gallery", str(tmp_path)]) == 2
    assert "is not a gallery" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "index", "search"])
def test_help_imports_nothing_heavy(command: str) -> None:
    script = (
        "import sys\n"
        "from ascl_lightning.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'jsonargparse', 'lightning', 'PIL') if name in sys.modules])\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, command, "--help"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith(f"usage: ascl {command}")
    assert shown.stdout.splitlines()[-1] == "[]"
