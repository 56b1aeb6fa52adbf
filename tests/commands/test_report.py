"""The page end to end: a training, a test of it, and the command again on what the test left."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.datasets import write_karpathy
from tests.helpers.report_pages import SECTIONS, Page, looked_up

from ascl_lightning.__main__ import main
from ascl_lightning.metrics.query_results import read_queries

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> Path:
    """The folder of a test of a trained model."""
    root = tmp_path_factory.mktemp("tested")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 6}, captions=[2, 3, 0])
    given = ["--config", TINY, "--trainer.default_root_dir", str(root / "runs"), "--data.root", str(root / "data")]
    assert main(["fit", *given]) == 0
    assert main(["test", *given, "--ckpt_path", "best"]) == 0
    return root / "runs" / "test" / "version_0"


def test_a_test_ends_with_its_page_and_every_number_is_in_a_file(tested):
    page = Page(tested / "report.html")
    # no folds in so small a split
    assert page.sections == [section for section in SECTIONS if section != "protocols"]
    assert page.loose == []
    assert len(page.numbers) > 100
    for value, source, _ in page.numbers:
        assert float(value) == looked_up(tested, source), source
    assert "types II and III" in page.text, "the losses of the training run"


def test_validations_of_a_training_write_no_evidence(tested):
    assert not list((tested.parents[1] / "fit").rglob("examples.json"))


def test_the_command_makes_the_same_page_from_files(tested, capsys):
    first = (tested / "report.html").read_text()
    (tested / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(tested)]) == 0
    assert str(tested / "report.html") in capsys.readouterr().out
    assert (tested / "report.html").read_text() == first


def test_examples_are_of_the_split_and_ranked_by_their_scores(tested):
    found = json.loads((tested / "examples.json").read_text())
    captions = [text for image in split_of(tested) for text in image]
    for direction, by_image in (("image_to_text", True), ("text_to_image", False)):
        assert found[direction]
        for query in found[direction]:
            scores = [result["score"] for result in query["results"]]
            assert scores == sorted(scores, reverse=True)
            assert query["truth"]["correct"]
            # by definition of a rank, as long as no score comes twice
            places = [place for place, result in enumerate(query["results"], 1) if result["correct"]]
            assert query["rank"] == places[0] if places else query["rank"] > 5
            texts = [*query["results"], query["truth"]] if by_image else [query["query"]]
            assert all(text["caption"] == captions[text["row"]] for text in texts)
            pictures = [query["query"]] if by_image else query["results"]
            assert all((tested / image["picture"]).is_file() for image in pictures)


def test_the_worst_queries_have_captions(tested):
    worst = json.loads((tested / "examples.json").read_text())["worst"]
    by_image = split_of(tested)
    captions = [text for image in by_image for text in image]
    for direction, queries in read_queries(tested / "queries.parquet")["fused", "own"].directions().items():
        expected = queries.query[np.argsort(-queries.rank, kind="stable")[:10]].tolist()
        assert [of["query"] for of in worst[direction]] == expected
        said = [captions[of] if direction == "text_to_image" else by_image[of][0] for of in expected]
        assert [of["caption"] for of in worst[direction]] == said


def test_attention_is_a_distribution_over_the_grid_and_support_a_cosine(tested):
    found = json.loads((tested / "attention.json").read_text())
    assert found["grid"] == 2, "32 pixels, one token for 16 by 16 of them"
    assert {pair["direction"] for pair in found["pairs"]} == {"image_to_text", "text_to_image"}
    for pair in found["pairs"]:
        assert len(pair["words"]) == len(pair["word_to_region"]) == len(pair["word_support"])
        assert pair["text"]["caption"].lower().split()[0] == pair["words"][0]
        assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in pair["word_to_region"] + pair["region_to_word"])
        assert all(-1 <= value <= 1 for value in pair["word_support"] + pair["region_support"])
        assert (tested / pair["image"]["picture"]).is_file()


def test_histograms_contain_all_pairs_and_variants(tested):
    counts = json.loads((tested / "histograms.json").read_text())["counts"]
    # six images of 2, 3, 0, 2, 3 and 0 captions
    assert sum(counts["positive"]) == 10
    assert sum(counts["other"]) == 6 * 10 - 10
    assert sum(counts["T-"]) > 0
    assert sum(counts["T+"]) > 0


def test_only_images_with_captions_are_timed_queries(tested):
    found = json.loads((tested / "latency.json").read_text())
    shapes = [(of["direction"], of["search"], of["scored"], len(of["queries"])) for of in found["searches"]]
    assert shapes == [
        ("image_to_text", "full", 10, 4),
        ("image_to_text", "two_stage", 1, 4),
        ("text_to_image", "full", 6, 10),
        ("text_to_image", "two_stage", 1, 10),
    ]
    assert all(query["milliseconds"] > 0 for of in found["searches"] for query in of["queries"])


def split_of(run: Path) -> list[list[str]]:
    """The captions of each test image."""
    content = json.loads((run.parents[2] / "data" / "dataset_flickr8k.json").read_text())
    return [[of["raw"] for of in image["sentences"]] for image in content["images"] if image["split"] == "test"]


@pytest.mark.parametrize(("folder", "said"), [("nothing", "there is no folder"), (".", "no results.json")])
def test_a_folder_without_a_run_is_one_line(folder, said, tmp_path, capsys):
    assert main(["report", str(tmp_path / folder)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
