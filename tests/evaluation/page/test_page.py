"""The page as a whole: what is on it, where its numbers come from, and what is wrong with a folder."""

import json
import re
from pathlib import Path

import pytest
from tests.helpers.report_pages import SECTIONS, Page, looked_up
from tests.helpers.run_folders import write_run

from ascl_lightning.errors import UserError
from ascl_lightning.evaluation.page.page import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(write_report(run))


@pytest.fixture
def without_drawings(monkeypatch) -> None:
    """Charts are empty: drawing them takes a second a page."""
    monkeypatch.setattr("ascl_lightning.evaluation.page.charts._svg", lambda figure: "<svg></svg>")


def test_every_section_is_there_and_linked(page):
    assert page.sections == list(SECTIONS)
    assert page.links == ["#main", *(f"#{section}" for section in SECTIONS)]


def test_every_number_is_in_the_file_that_it_names(run, page):
    assert len(page.numbers) > 200
    for value, source, shown in page.numbers:
        assert float(value) == looked_up(run, source), source
        digits = len(shown.partition(".")[2])
        assert shown == f"{float(value):,.{digits}f}"


def test_no_table_holds_a_number_without_a_source(page):
    assert page.loose == []


def test_the_headline_figures_are_those_of_the_score_that_ranks(page):
    first = [(source, shown) for _, source, shown in page.numbers[2:5]]
    name = "results.json#/scores/fused/rsum/"
    # 2 * (41.5 + 45.5 + 50.5), and its interval
    assert first == [(f"{name}value", "275.0"), (f"{name}low", "273.8"), (f"{name}high", "276.2")]


def test_the_page_requests_nothing(page):
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert "url(http" not in page.text
    assert "<script" not in page.text
    assert "@import" not in page.text


def test_identifiers_are_distinct_and_references_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_images_have_alternative_texts(page):
    assert page.images
    assert all(image["alt"].startswith("image photo <") for image in page.images)


def test_data_are_escaped(page):
    assert "photo &lt;0&gt;" in page.text
    assert "a dog &amp; number" in page.text
    assert "# &lt;&amp;&gt;" in page.text, "the configuration"


def test_the_same_files_give_the_same_page(run, page):
    assert write_report(run).read_text() == page.text


def test_the_title_names_model_and_data(page, tmp_path):
    title = "convnext_tiny + GruTextEncoder on KarpathyJson (kites &amp; hats), test split"
    assert f"<title>{title}</title>" in page.text
    assert f"<h1>{title}</h1>" in page.text
    assert "<title>Report on the test split</title>" in write_report(write_run(tmp_path, ("config.yaml",))).read_text()


@pytest.mark.usefixtures("without_drawings")
def test_the_worst_queries_are_shown_with_captions(page, tmp_path):
    section = page.text[page.text.index('id="queries"') :]
    assert section.index("a &lt;dog&gt; by the sea") < section.index("two kites") < section.index("a hat")
    run = write_run(tmp_path)
    found = json.loads((run / "examples.json").read_text())
    del found["worst"]
    (run / "examples.json").write_text(json.dumps(found))
    assert "Worst queries, text to image" in write_report(run).read_text(), "of a run that kept no sentences"


@pytest.mark.usefixtures("without_drawings")
def test_unseen_operations_and_the_control_are_on_the_page_but_not_of_older_cards(page, tmp_path):
    assert ("report_card.json#/types/I/unseen/value/fused/value", "61.5") in [of[1:] for of in page.numbers]
    assert ("report_card.json#/discrimination/0/control/value", "52.5") in [of[1:] for of in page.numbers]
    assert page.text.count("text-only control") > 3
    run = write_run(tmp_path)
    card = json.loads((run / "report_card.json").read_text())
    del card["control"], card["types"]["I"]["control"], card["types"]["I"]["unseen"]
    for row in card["discrimination"]:
        del row["control"], row["trained_on"]
    (run / "report_card.json").write_text(json.dumps(card))
    older = Page(write_report(run))
    assert ("report_card.json#/types/I/value/fused/value", "70.0") in [of[1:] for of in older.numbers]
    assert "unseen in training" not in older.text


@pytest.mark.usefixtures("without_drawings")
def test_leaks_are_at_the_top(tmp_path):
    leak = {"kind": "split", "message": "selected on the split <under test>"}
    leaking = Page(write_report(write_run(tmp_path / "a", leaks=[leak]))).text
    assert leaking.index("metrics are invalid") < leaking.index("<nav")
    assert leaking.count("selected on the split &lt;under test&gt;") == 2, "in the banner and in its section"
    clean = Page(write_report(write_run(tmp_path / "b"))).text
    assert "metrics are invalid" not in clean
    assert "checks found no leaks" in clean


@pytest.mark.usefixtures("without_drawings")
def test_the_page_of_an_unchecked_run_has_a_warning(tmp_path):
    run = write_run(tmp_path)
    results = json.loads((run / "results.json").read_text())
    del results["leaks"]
    (run / "results.json").write_text(json.dumps(results))
    assert "was not checked for leaks" in write_report(run).read_text()


def test_settings_that_differ_from_the_training_are_named(tmp_path):
    change = {"setting": "model.similarity.local_weight", "before": 0.2, "now": 0.9}
    changes = {"evaluation": [change], "training": []}
    page = write_report(write_run(tmp_path, config_changes=changes)).read_text()
    assert "with a different configuration than in training: model.similarity.local_weight 0.2 -&gt; 0.9" in page
    assert "training was resumed" not in page


@pytest.mark.usefixtures("without_drawings")
@pytest.mark.usefixtures("without_drawings")
@pytest.mark.parametrize(
    "file",
    ["report_card.json", "examples.json", "attention.json", "histograms.json", "latency.json", "queries.parquet"],
)
def test_a_section_without_its_file_names_the_command_that_writes_it(file, tmp_path):
    page = Page(write_report(write_run(tmp_path, without=(file,))))
    assert f"no {file}" in page.text
    assert page.sections == list(SECTIONS)


@pytest.mark.usefixtures("without_drawings")
def test_results_alone_make_a_page(tmp_path):
    run = write_run(tmp_path)
    for path in run.iterdir():
        if path.name not in ("results.json", "pictures"):
            path.unlink()
    assert Page(write_report(run)).sections == list(SECTIONS)


def test_without_pictures_the_words_remain(tmp_path):
    run = write_run(tmp_path)
    for path in (run / "pictures").iterdir():
        path.unlink()
    page = Page(write_report(run))
    assert page.images == []
    assert "red: attends most to row 1, column 1 (70%)" in page.text


@pytest.mark.usefixtures("without_drawings")
@pytest.mark.parametrize(
    ("training", "said"), [(None, "is not in the folder of a run"), ("gone/fit", "has no metrics.csv")]
)
def test_a_missing_training_run_is_named(training, said, tmp_path):
    assert said in write_report(write_run(tmp_path, training=training)).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        write_report(tmp_path / "nothing")
    (tmp_path / "metrics.csv").write_text("step\n")
    with pytest.raises(UserError, match=r"no results\.json.*ascl test"):
        write_report(tmp_path)


@pytest.mark.usefixtures("without_drawings")
@pytest.mark.parametrize("file", ["results.json", "examples.json", "queries.parquet"])
def test_a_damaged_file_is_named(file, tmp_path):
    run = write_run(tmp_path)
    (run / file).write_text('{"scores": ')
    with pytest.raises(UserError, match=re.escape(str(run / file))):
        write_report(run)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "7", '{"scores": 1}', '{"scores": {"fused": {"rsum": []}}}'])
def test_json_that_holds_something_else_is_named(tmp_path, content):
    run = write_run(tmp_path)
    (run / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json has unexpected content .*; run the test again"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.usefixtures("without_drawings")
@pytest.mark.parametrize("name", ["report_card", "histograms", "examples", "attention", "latency"])
@pytest.mark.parametrize("content", ["[1]", '"text"'])
def test_evidence_that_holds_something_else_is_named(tmp_path, name, content):
    run = write_run(tmp_path)
    (run / f"{name}.json").write_text(content)
    with pytest.raises(UserError, match=r"\.json has unexpected content"):
        write_report(run)
