"""Files of an evaluation; what they hold is checked against the metrics, which have tests of their own."""

import json
from pathlib import Path

import pytest
import torch
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.api import Retriever
from ascl_lightning.metrics.query_results import read_queries

TINY = str(Path(__file__).parents[1] / "configs" / "tiny.yaml")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A training, and a test of it; one caption is longer than the tokenizer's limit of 24 words."""
    root = tmp_path_factory.mktemp("evaluated")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 6}, captions=[2, 0, 1])
    described = json.loads((root / "data" / "dataset_flickr8k.json").read_text())
    last = next(image for image in described["images"][::-1] if image["sentences"])
    last["sentences"][0]["raw"] = "a " + "very " * 40 + "long sentence"
    (root / "data" / "dataset_flickr8k.json").write_text(json.dumps(described))
    flags = ["--config", TINY, "--trainer.default_root_dir", str(root / "runs"), "--data.root", str(root / "data")]
    assert main(["fit", *flags]) == 0
    assert main(["test", *flags, "--ckpt_path", "best", "--model.fold_size", "3"]) == 0
    return root / "runs"


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_every_score_has_every_figure_with_an_interval_around_it(evaluated):
    found = results(evaluated / "test" / "version_0")
    scores = ["fused", "local", "global", "independent", "two_stage", "reranked", "standardized"]
    assert list(found["scores"]) == scores
    for figures in found["scores"].values():
        assert {"rsum", "text_to_image/recall_at_10", "image_to_text/median_rank"} <= figures.keys()
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in figures.values())


def test_the_fused_score_has_the_figures_that_were_logged(evaluated):
    found = results(evaluated / "test" / "version_0")
    for name, figure in found["scores"]["fused"].items():
        if f"test/{name}" in found["metrics"]:
            assert figure["value"] == pytest.approx(found["metrics"][f"test/{name}"]), name
    for name, figure in found["protocols"]["folds"]["fused"].items():
        if f"test/folds/{name}" in found["metrics"]:
            assert figure["value"] == pytest.approx(found["metrics"][f"test/folds/{name}"]), name
    assert found["protocols"]["folds"].keys() == {"fused", "local", "global", "independent"}


def test_the_logged_metrics_lie_in_a_flat_file(evaluated):
    run = evaluated / "test" / "version_0"
    metrics = json.loads((run / "test_metrics.json").read_text())
    assert metrics == results(run)["metrics"]
    assert {"test/rsum", "test/image_to_text/recall_at_1"} <= metrics.keys()


def test_results_contain_their_provenance(evaluated):
    found = results(evaluated / "test" / "version_0")
    assert (found["split"], found["num_images"], found["truncated_texts"]) == ("test", 6, 1)
    assert found["training"] == str(evaluated / "fit" / "version_0")
    assert found["checkpoint"].endswith("best.ckpt")
    assert Path(found["config"]).is_file()


def test_queries_are_all_images_with_captions_and_all_captions(evaluated):
    found, queries = (
        results(evaluated / "test" / "version_0"),
        read_queries(evaluated / "test/version_0/queries.parquet"),
    )
    assert set(queries) == {(score, "own") for score in found["scores"]}
    fused = queries["fused", "own"]
    assert len(fused.text_to_image) == found["num_texts"]
    assert len(fused.image_to_text) == len(set(fused.text_to_image.image)) == 4
    recall = 100 * (fused.text_to_image.rank <= 1).mean()
    assert found["scores"]["fused"]["text_to_image/recall_at_1"]["value"] == pytest.approx(recall)


def test_a_validation_is_evaluated_likewise_and_a_training_is_not(evaluated, capsys):
    assert not list((evaluated / "fit" / "version_0").glob("results.json"))
    root = evaluated.parent
    flags = ["--config", TINY, "--trainer.default_root_dir", str(evaluated), "--data.root", str(root / "data")]
    assert main(["validate", *flags, "--ckpt_path", "best"]) == 0
    found = results(evaluated / "validate" / "version_0")
    assert found["split"] == "val"
    assert found["scores"]["fused"]["rsum"]["value"] == pytest.approx(found["metrics"]["val/rsum"])
    assert "Validation split" in capsys.readouterr().out
    metrics = json.loads((evaluated / "validate" / "version_0" / "validate_metrics.json").read_text())
    assert metrics == found["metrics"]
    assert "val/rsum" in metrics


def test_results_are_marked_as_clean_or_leaked(evaluated, capsys):
    found = results(evaluated / "test" / "version_0")
    assert found["leaks"] == found["unchecked"] == []
    described = json.loads((evaluated.parent / "data" / "dataset_flickr8k.json").read_text())
    for image in described["images"]:
        image["split"] = {"val": "test", "test": "unused"}.get(image["split"], image["split"])
    (evaluated.parent / "data" / "selected.json").write_text(json.dumps(described))
    flags = [
        "--config",
        TINY,
        "--trainer.default_root_dir",
        str(evaluated),
        "--data.root",
        str(evaluated.parent / "data"),
    ]
    flags += ["--data.source.init_args.annotations", "selected.json", "--ckpt_path", "best"]
    assert main(["test", *flags]) == 2
    assert main(["test", *flags, "--allow-leak"]) == 0
    leaking = results(max((evaluated / "test").glob("version_*"), key=lambda run: int(run.name.rpartition("_")[2])))
    assert [leak["kind"] for leak in leaking["leaks"]] == ["selection_images"]
    assert "(invalid: data leak)" in capsys.readouterr().out
    assert results(evaluated / "validate" / "version_0")["leaks"] is None, "a validation looks for none"
    assert leaking["data"] == results(evaluated / "validate" / "version_0")["data"], "the same images and captions"
    assert leaking["data"] != found["data"]


def test_settings_that_differ_from_those_of_the_training_are_named(evaluated):
    assert results(evaluated / "test" / "version_0")["config_changes"] == {"evaluation": [], "training": []}
    other = evaluated.parent / "other"
    write_karpathy(other, {"train": 9, "val": 4, "test": 3}, captions=[2, 0, 1], first=100)
    # the newest run must stay the one that the other tests look at
    root = evaluated.parent / "continued"
    flags = ["--config", TINY, "--trainer.default_root_dir", str(root), "--data.root", str(other)]
    last = max((evaluated / "fit" / "version_0" / "checkpoints").glob("last-*.ckpt"))
    with pytest.warns(UserWarning, match="another configuration: data.root .*/data -> .*/other") as training:
        assert main(["fit", *flags, "--trainer.max_epochs", "3", "--ckpt_path", str(last)]) == 0
    changed = ["--model.similarity.local_weight", "0.9"]
    with pytest.warns(UserWarning, match="another configuration: model.similarity.local_weight 0.8 -> 0.9") as testing:
        assert main(["test", *flags, "--ckpt_path", "best", *changed]) == 0
    for warned in (training, testing):
        assert len([warning for warning in warned if "another configuration" in str(warning.message)]) == 1
    found = results(root / "test" / "version_0")["config_changes"]
    assert [change["setting"] for change in found["training"]] == ["data.root"]
    assert found["evaluation"] == [{"setting": "model.similarity.local_weight", "before": 0.8, "now": 0.9}]
    assert "local_weight 0.8 -&gt; 0.9" in (root / "test" / "version_0" / "report.html").read_text()
    weights = root / "fit" / "version_0" / "weights"
    assert json.loads((weights / "config_changes.json").read_text()) == found["training"]


def test_hubness_is_measured_by_the_training_split(evaluated):
    data, root = evaluated.parent / "data", evaluated.parent / "corrected"
    best = str(evaluated / "fit" / "version_0" / "checkpoints" / "best.ckpt")
    flags = ["--config", TINY, "--trainer.default_root_dir", str(root), "--data.root", str(data), "--ckpt_path", best]
    assert main(["validate", *flags, "--hubness.images", "100", "--hubness.k", "3", "--hubness.weight", "0.5"]) == 0
    (run,) = root.glob("validate/*")
    assert "hubness_corrected" in results(run)["scores"]

    described = json.loads((data / "dataset_flickr8k.json").read_text())["images"]
    retriever, embeds, owner = Retriever.from_checkpoint(best), {}, []
    for split in ("train", "val"):
        images = [image for image in described if image["split"] == split]
        captions = [sentence["raw"] for image in images for sentence in image["sentences"]]
        owner = [number for number, image in enumerate(images) for _ in image["sentences"]]
        pictures = [next(data.rglob(image["filename"])) for image in images]
        embeds[split] = retriever.encode_images(pictures).embeds, retriever.encode_texts(captions).embeds

    found = read_queries(run / "queries.parquet")["hubness_corrected", "own"]
    for side, direction in enumerate((found.image_to_text, found.text_to_image)):
        queries, items, bank = embeds["val"][side], embeds["val"][1 - side], embeds["train"][side]
        scores = queries @ items.T - 0.5 * (items @ bank.T).sort(1, descending=True).values[:, :3].mean(1)
        own = torch.tensor(owner)[None] == torch.arange(len(embeds["val"][0]))[:, None]
        own = own if side == 0 else own.T
        best_own = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        ranks = 1 + ((scores >= best_own) & ~own).sum(1)
        assert direction.rank.tolist() == ranks[own.any(1)].tolist()
