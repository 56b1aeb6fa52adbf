"""What W&B has of a run, read back from its own record."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tests.helpers.datasets import write_karpathy
from tests.helpers.recordings import TINY, record
from tests.helpers.run_folders import card
from tests.helpers.wandb_records import read_runs

from ascl_lightning.__main__ import main
from ascl_lightning.commands.dashboard import workspace
from ascl_lightning.evaluation.wandb.dashboard import figures_panel, report_card_panel

WAYS = ("image_to_text", "text_to_image")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A training of two epochs and a test of its best checkpoint, both recorded by W&B offline."""
    root = tmp_path_factory.mktemp("recorded")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 5}, captions=[2, 3, 1])
    record(root, "fit")
    record(root, "test", "--ckpt_path", "best")
    return root


@pytest.fixture(scope="module")
def training(recorded):
    return read_runs(recorded)[0]


@pytest.fixture(scope="module")
def evaluated_run(recorded):
    return read_runs(recorded)[1]


def rows(recorded: Path, name: str) -> list[dict[str, str]]:
    (file,) = recorded.glob("runs/fit/*/metrics.csv")
    with file.open() as lines:
        return [row for row in csv.DictReader(lines) if row.get(name)]


def test_scalars_are_those_of_the_csv_file(recorded, training):
    for name in ("train/loss", "train/gradient_norm", "train/logit_scale", "train/pairs_per_second", "val/rsum"):
        logged = [(row["trainer/global_step"], row[name]) for row in training.history if name in row]
        assert logged == [(int(row["step"]), pytest.approx(float(row[name]))) for row in rows(recorded, name)]
        assert len(logged) == (2 if name == "val/rsum" else 6), "two epochs of three steps"


def test_validations_are_plotted_against_the_epoch(training):
    validated = {name for name in training.keys if name.startswith("val/")}
    tables = {"val/found/text_to_image", "val/found/image_to_text", "val/attention", "val/asymmetry/comparisons"}
    assert {name for name, axis in training.axes.items() if axis == "epoch"} == validated - tables
    assert training.axes["*"] == "trainer/global_step"
    assert [row["epoch"] for row in training.history if "val/rsum" in row] == [0, 1]


def test_the_summary_has_the_best_validation(recorded, training):
    validated = rows(recorded, "val/rsum")
    best = max(validated, key=lambda row: float(row["val/rsum"]))
    assert training.summary["best/rsum"] == pytest.approx(float(best["val/rsum"]))
    assert training.summary["best/epoch"] == int(best["epoch"])
    assert training.summary["best/step"] == int(best["step"]) + 1
    for way in WAYS:
        assert training.summary[f"best/{way}/recall_at_1"] == pytest.approx(float(best[f"val/{way}/recall_at_1"]))
    assert training.summary["val/rsum"] == pytest.approx(float(validated[-1]["val/rsum"])), "the last one"


def test_the_configuration_goes_with_what_the_data_are(recorded, training, evaluated_run):
    (config,) = recorded.glob("runs/fit/*/config.yaml")
    written = yaml.safe_load(config.read_text())
    assert training.config["model"] == written["model"]
    assert training.config["data"]["positives"] == written["data"]["positives"]
    prints = training.config["data_fingerprint"] | evaluated_run.config["data_fingerprint"]
    assert prints.keys() == {"train", "val", "test"}
    assert len({of_split["images"] for of_split in prints.values()}) == 3


def test_system_metrics_are_recorded(training):
    assert any(name.startswith("proc.cpu") for name in training.machine)


def pictures(run, table: str, place: int = -1):
    """Rows with their pictures opened."""
    columns, found, files = run.table(table, place)
    opened = []
    for row in found:
        cells = [
            Image.open(files[cell["path"]]) if isinstance(cell, dict) and cell.get("_type") == "image-file" else cell
            for cell in row
        ]
        opened.append(dict(zip(columns, cells, strict=True)))
    return opened


def captions(recorded: Path, split: str) -> dict[str, list[str]]:
    content = json.loads((recorded / "data" / "dataset_flickr8k.json").read_text())
    return {
        image["filename"]: [sentence["raw"] for sentence in image["sentences"]]
        for image in content["images"]
        if image["split"] == split
    }


def test_results_of_text_queries(recorded, training):
    own = captions(recorded, "val")
    tables = [pictures(training, "val/found/text_to_image", place) for place in (0, 1)]
    for table in tables:
        assert [row["place"] for row in table] == [1, 2, 3, 4] * 8, "of four images, for each of eight texts"
        for row in table:
            assert row["right"] == (row["query"] in own[row["image"]])
            assert isinstance(row["picture"], Image.Image)
            assert max(row["picture"].size) <= 128
        for query in range(8):
            scores = [row["score"] for row in table[4 * query : 4 * query + 4]]
            assert scores == sorted(scores, reverse=True)
    first, second = ([row["query"] for row in table] for table in tables)
    assert first == second, "the same queries at each validation"
    assert len([row for row in training.history if "val/found/text_to_image" in row]) == 2, "none in the sanity check"


def test_the_first_places_are_the_recall(training):
    """All captions and images of the small split are queries, so that the tables tell recall at one."""
    hits = [row["right"] for row in pictures(training, "val/found/text_to_image") if row["place"] == 1]
    assert 100 * sum(hits) / 8 == pytest.approx(training.summary["val/text_to_image/recall_at_1"])
    hits = [row["right"] for row in pictures(training, "val/found/image_to_text") if row["place"] == 1]
    assert 100 * sum(hits) / 4 == pytest.approx(training.summary["val/image_to_text/recall_at_1"])


def test_results_of_image_queries(recorded, training):
    own = captions(recorded, "val")
    table = pictures(training, "val/found/image_to_text")
    assert {row["image"] for row in table} == set(own)
    for row in table:
        assert row["right"] == (row["caption"] in own[row["image"]])
        assert isinstance(row["query"], Image.Image)


def test_attention_is_drawn_over_the_images(recorded, training):
    cleaned = {text.lower().removesuffix(" .") for texts in captions(recorded, "val").values() for text in texts}
    table = pictures(training, "val/attention")
    for caption in {row["caption"] for row in table}:
        assert caption in cleaned
        assert [row["word"] for row in table if row["caption"] == caption] == caption.split()
    for row in table:
        assert -1 <= row["support"] <= 1
        assert row["attention of the word"].size == row["attention to the word"].size == (128, 128)


def test_the_preferred_text_by_operation(training):
    columns, table, _ = training.table("val/asymmetry/comparisons")
    assert columns == ["type", "text", "preferred to", "share", "captions"]
    found = {(row[1], row[2]): row[3] for row in table}
    assert found["T", "T- (shuffle_words)"] == training.summary["val/asymmetry/type_i/shuffle_words"]
    half = "type_iii/first_half/over_negative/gaussian_noise"
    assert found["T+ (first_half)", "T- (gaussian_noise)"] == training.summary[f"val/asymmetry/{half}"]
    # T-, T+ with T, and T+ with two negatives each way, for two negatives and two positives
    assert len(table) == 2 + 2 + 2 * 2 * 2
    assert {row[0] for row in table} == {"type_i", "type_ii", "type_iii"}


def test_the_first_batch_with_its_made_texts(recorded, training):
    own = {text.lower().removesuffix(" .") for texts in captions(recorded, "train").values() for text in texts}
    table = pictures(training, "train/first_batch")
    assert len(table) == 3, "nine pairs in three batches"
    for row in table:
        assert row["T"] in own
        assert row["T+ by"] in ("join_captions (II)", "first_half (III)")
        assert sorted(row["T-"].split()) == sorted(row["T"].split())
        assert row["T-"] != row["T"]
        assert row["T- by"] == "shuffle_words (I)"
        assert sorted(row["(T+)-"].split()) == sorted(row["T+"].split())
        assert isinstance(row["picture"], Image.Image)


def test_the_best_checkpoint_is_uploaded_with_its_metrics(recorded, training):
    artifact = training.artifact("model")
    (entry,) = artifact.manifest.contents
    assert "best" in artifact.aliases
    assert json.loads(artifact.metadata)["best/rsum"] == training.summary["best/rsum"]
    # it is not copied, and can be loaded from where it is
    (best,) = recorded.glob("runs/fit/*/checkpoints/best.ckpt")
    assert (recorded / entry.local_path).samefile(best)
    assert json.loads(artifact.metadata)["best/step"] == torch.load(best, weights_only=True)["global_step"]


def test_a_test_logs_metrics_and_uploads_its_files(recorded, evaluated_run):
    (run,) = recorded.glob("runs/test/*")
    results = json.loads((run / "results.json").read_text())
    columns, table, _ = evaluated_run.table("test/figures")
    found = {tuple(row[:3]): dict(zip(columns[3:], row[3:], strict=True)) for row in table}
    assert found["own", "fused", "rsum"] == pytest.approx(results["scores"]["fused"]["rsum"])
    assert len(found) == sum(map(len, results["scores"].values())) + sum(
        len(figures) for scores in results["protocols"].values() for figures in scores.values()
    )
    handed_on = {entry.path for entry in evaluated_run.artifact("evaluation").manifest.contents}
    assert {"results.json", "queries.parquet", "report_card.json", "report_card.parquet"} <= handed_on
    assert evaluated_run.summary["test/leaks"] == "none found"
    assert evaluated_run.summary["test/rsum"] == pytest.approx(results["metrics"]["test/rsum"])


def test_a_test_logs_its_report_card(recorded, evaluated_run):
    (file,) = recorded.glob("runs/test/*/report_card.json")
    written = json.loads(file.read_text())
    _, table, _ = evaluated_run.table("test/report_card")
    found = {(figure, score): value for figure, _, score, value, _, _ in table}
    for kind in ("I", "II", "III"):
        for score, figure in written["types"][kind]["value"].items():
            assert found[f"type {kind}", score] == pytest.approx(figure["value"], nan_ok=True)
    trained_on = {figure: trained for figure, trained, *_ in table}
    for of in written["discrimination"]:
        name = f"T before {of['operation']}"
        assert found[name, of["score"]] == pytest.approx(of["value"])
        assert found[name, "text_only"] == pytest.approx(of["control"]["value"])
        assert trained_on[name] == of["trained_on"]


def test_the_report_card_has_rows_of_unseen_operations_and_the_control():
    rows = report_card_panel(card()).rows
    assert ["type I, unseen", None, "fused", 61.5, 68.0, 72.0] in rows
    assert ["type I, unseen", None, "text_only", 52.5, 49.0, 56.0] in rows
    assert ["type I", None, "text_only", 52.5, 49.0, 56.0] in rows
    assert [row for row in rows if row[0] == "T before swap_words"] == [
        ["T before swap_words", True, "fused", 71.5, 70.0, 73.0],
        ["T before swap_words", True, "text_only", 52.5, 49.0, 56.0],
        ["T before swap_words", True, "independent", 50.5, 49.0, 52.0],
    ]
    assert [row for row in rows if row[0] == "T before number"] == [
        ["T before number", False, "fused", 55.0, 40.0, 70.0]
    ]


def test_all_files_are_written_in_the_run_folders(recorded, training):
    """There was no home folder: what a table needs is below the working folder, and can be sent from there."""
    for artifact in training.artifacts:
        for entry in artifact.manifest.contents:
            assert (recorded / entry.local_path).resolve().is_relative_to(recorded)
            assert (recorded / entry.local_path).is_file()


def test_each_panel_shows_what_a_run_logs(training):
    shown = set()
    for section in workspace("somebody", "ascl-lightning", "AsCL").sections:
        assert section.panels, section.name
        for panel in section.panels:
            kind = type(panel).__name__
            if kind == "LinePlot":
                assert panel.x in training.keys, panel.title
                names = {
                    name for name in training.keys if panel.metric_regex and re.fullmatch(panel.metric_regex, name)
                }
                names |= set(panel.y)
                assert names, panel.title
            elif kind == "WeavePanelSummaryTable":
                names = {panel.table_name}
            else:
                names = set()
            assert names <= training.keys, panel
            shown |= names
    # all that a training logs is to be seen, but for what a table has too and the score that follows from another
    missing = {name for name in training.keys - shown if name.startswith(("train/", "val/"))}
    assert missing == {name for name in missing if name.endswith("median_rank")}


def test_what_compares_runs_is_in_their_summary(training):
    (runs,) = (section for section in workspace("a", "b", "c").sections if section.name == "Runs")
    bars, importance, _ = runs.panels
    assert set(bars.metrics) == {importance.with_respect_to} <= training.summary.keys()


def test_protocols_have_rows_of_their_own():
    figure = {"value": 50.0, "low": 40.0, "high": 60.0}
    results = {"scores": {"fused": {"rsum": figure}}, "protocols": {"folds": {"fused": {"rsum": figure}}}}
    assert figures_panel(results).rows == [
        ["own", "fused", "rsum", 50.0, 40.0, 60.0],
        ["folds", "fused", "rsum", 50.0, 40.0, 60.0],
    ]


def test_a_fast_dev_run_writes_nothing(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 4, "val": 2}, captions=2)
    record(tmp_path, "fit", "--trainer.fast_dev_run", "true")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_validations_inside_an_epoch_are_plotted_against_the_step(tmp_path):
    write_karpathy(tmp_path / "data", {"train": 8, "val": 2}, captions=1)
    record(tmp_path, "fit", "--trainer.max_epochs", "1", "--trainer.val_check_interval", "1")
    (run,) = read_runs(tmp_path)
    assert [row["trainer/global_step"] for row in run.history if "val/rsum" in row] == [0, 1]
    assert "val/rsum" not in run.axes


@pytest.mark.slow
def test_a_resumed_run_stays_one_run(tmp_path):
    """And its best validation stays the best; what it began with is not shown again."""
    write_karpathy(tmp_path / "data", {"train": 8, "val": 4}, captions=2)
    flags = ("--model.optimizer", "AdamW", "--model.optimizer.lr")
    record(tmp_path, "fit", "--trainer.max_epochs", "1", *flags, "0.01")
    record(tmp_path, "fit", "--trainer.max_epochs", "3", *flags, "0.01", "--resume")
    first, second = read_runs(tmp_path)
    assert first.id == second.id
    assert [row["epoch"] for row in second.history if "val/rsum" in row] == [1, 2]
    rsums = [row["val/rsum"] for run in (first, second) for row in run.history if "val/rsum" in row]
    merged = first.summary | second.summary
    assert merged["best/rsum"] == max(rsums)
    assert merged["best/epoch"] == rsums.index(max(rsums))
    assert "train/first_batch" in first.keys
    assert "train/first_batch" not in second.keys
    assert second.artifact("model").metadata != "{}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [("--trainer.strategy", "ddp"), ("--config", "fsdp")])
def test_rank_0_of_2_logs_the_whole_split(tmp_path, strategy):
    write_karpathy(tmp_path / "data", {"train": 8, "val": 5}, captions=2)
    fsdp = str(TINY.parents[2] / "configs" / "trainer" / "fsdp.yaml")
    flags = [fsdp if flag == "fsdp" else flag for flag in strategy]
    sgd = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1")
    record(tmp_path, "fit", *flags, *sgd, "--trainer.max_epochs", "1", ranks=2)
    (run,) = read_runs(tmp_path)
    assert len({row["image"] for row in pictures(run, "val/found/image_to_text")}) == 5
    _, table, _ = run.table("val/asymmetry/comparisons")
    assert {row[4] for row in table} == {10}
    hits = [row["right"] for row in pictures(run, "val/found/image_to_text") if row["place"] == 1]
    assert 100 * sum(hits) / 5 == pytest.approx(run.summary["val/image_to_text/recall_at_1"])
    assert run.artifact("model").aliases


def test_without_wandb_nothing_is_logged(tmp_path, monkeypatch):
    """Neither panels nor the library itself."""
    for name in ("found_panels", "attention_panel", "first_batch_panel"):
        monkeypatch.setattr(f"ascl_lightning.evaluation.wandb.dashboard.{name}", None)
    write_karpathy(tmp_path / "data", {"train": 4, "val": 2}, captions=2)
    arguments = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--data.root", str(tmp_path / "data")]
    assert main(["fit", "--config", str(TINY), *arguments, "--trainer.max_epochs", "1"]) == 0
