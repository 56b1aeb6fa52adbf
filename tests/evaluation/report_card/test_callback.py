"""The report card end to end, through the command line."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.cli import AsclCLI
from ascl_lightning.data.variants.ladder import Variants

pytestmark = pytest.mark.usefixtures("without_page")

TINY = str(Path(__file__).parents[2] / "configs" / "tiny.yaml")
FILES = ("report_card.json", "report_card.parquet", "variants.parquet")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    write_karpathy(root / "data", {"train": 9, "val": 5, "test": 8}, captions=[2, 3, 1])
    flags = ["--data.root", str(root / "data"), "--trainer.default_root_dir", str(root)]
    assert main(["fit", "--config", TINY, *flags, "--trainer.max_epochs", "1"]) == 0
    return next(root.glob("fit/*/checkpoints/best.ckpt"))


def arguments(checkpoint: Path, root: Path, *flags: str, command: str = "test") -> list[str]:
    data = next(parent for parent in checkpoint.parents if (parent / "data").is_dir()) / "data"
    where = ["--data.root", str(data), "--trainer.default_root_dir", str(root)]
    return [command, "--config", TINY, *where, "--ckpt_path", str(checkpoint), *flags]


def run(checkpoint: Path, root: Path, *flags: str, command: str = "test") -> Path:
    assert main(arguments(checkpoint, root, *flags, command=command)) == 0
    return root / command / "version_0"


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory) -> Path:
    return run(checkpoint, tmp_path_factory.mktemp("one"))


def recall(rows: list[dict], queries: set[int], k: int) -> float:
    return 100 * np.mean([row["rank"] <= k for row in rows if row["query"] in queries])


def test_every_figure_follows_from_the_rows(folder):
    card = json.loads((folder / "report_card.json").read_text())
    rows = pq.read_table(folder / "report_card.parquet").to_pylist()
    assert (card["scores"], card["captions"], card["seed"]) == (["independent", "two_stage"], "one", 0)
    # one caption of each of eight images
    assert (card["num_images"], card["num_texts"]) == (8, 8)
    at = {}
    for row in rows:
        at.setdefault((row["score"], row["direction"], row["operation"], row["level"]), []).append(row)
    curves = [curve for curve in card["curves"] if curve["type"] != "length"]
    assert {curve["name"] for curve in curves} >= {"keep_words", "append_siblings", "append_others", "shuffle_words"}
    for curve in curves:
        key, k = (curve["score"], curve["direction"]), int(curve["metric"].removeprefix("recall_at_"))
        levels = [at[(*key, curve["name"], level)] for level in curve["x"][1:]]
        changed = {row["query"] for of_level in levels for row in of_level if row["changed"]}
        plain = at[(*key, "unchanged", 0.0)]
        assert curve["y"] == pytest.approx([recall(of_level, changed, k) for of_level in [plain, *levels]])
        assert curve["n"] == [len(changed)] * len(curve["x"])
        assert all(low <= y <= high for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True))
    for found in card["discrimination"]:
        plain = at[found["score"], "text_to_image", "unchanged", 0.0]
        pairs = zip(plain, at[found["score"], "text_to_image", found["operation"], 1.0], strict=True)
        pairs = [(was, made) for was, made in pairs if made["changed"]]
        beats, blind = ([was[of] - made[of] > 1e-5 for was, made in pairs] for of in ("own_score", "blind_score"))
        assert (found["value"], found["n"]) == (pytest.approx(100 * np.mean(beats)), len(beats))
        assert found["control"]["value"] == pytest.approx(100 * np.mean(blind))


def test_the_summary_of_each_type_has_its_definition(folder, capsys):
    card = json.loads((folder / "report_card.json").read_text())
    assert list(card["types"]) == ["I", "II", "III"]
    for score in card["scores"]:
        found = [row["value"] for row in card["discrimination"] if row["score"] == score]
        assert card["types"]["I"]["value"][score]["value"] == pytest.approx(np.mean(found))
        for type_ in ("II", "III"):
            curves = [curve for curve in card["curves"] if (curve["type"], curve["score"]) == (type_, score)]
            kept = 100 * sum(curve["area"] for curve in curves) / sum(curve["y"][0] for curve in curves)
            assert card["types"][type_]["value"][score]["value"] == pytest.approx(kept)
    assert "Area under the curve" in card["types"]["III"]["definition"]


def test_truncated_texts_and_skipped_operations_are_listed(folder):
    """The tokenizer keeps 24 words; a caption has six to ten."""
    card = json.loads((folder / "report_card.json").read_text())
    variants = Variants.load(folder / "variants.parquet")
    longer = {
        ladder.operation: {
            f"{step.level:g}": sum(len(text.split()) > 24 for text in step.texts) for step in ladder.steps
        }
        for ladder in variants.ladders
    }
    assert card["truncated"] == {"unchanged": 0, **longer}
    assert longer["append_others"]["4"] == 8
    not_run = {row["operation"]: row["reason"] for row in card["not_run"]}
    assert not_run == variants.not_run
    assert not_run["swap_number"] == "it changes no caption here"


def test_another_run_uses_the_variants_of_a_file(checkpoint, folder, tmp_path):
    """The seed is then that of the file."""
    file = folder / "variants.parquet"
    again = run(checkpoint, tmp_path, "--report_card.variants", str(file), "--report_card.seed", "7")
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_makes_another_card(checkpoint, folder, tmp_path):
    other = run(checkpoint, tmp_path, "--report_card.seed", "7")
    assert json.loads((other / "report_card.json").read_text())["seed"] == 7
    assert Variants.load(other / "variants.parquet") != Variants.load(folder / "variants.parquet")


def test_all_captions_by_every_score_of_the_validation_split(checkpoint, tmp_path):
    flags = ["--report_card.commands", "[validate]", "--report_card.captions", "all"]
    scores = ["independent", "local", "global", "fused", "two_stage"]
    flags += ["--report_card.scores", f"[{','.join(scores)}]"]
    found = run(checkpoint, tmp_path, *flags, command="validate")
    card = json.loads((found / "report_card.json").read_text())
    assert (card["split"], card["num_images"], card["num_texts"], card["scores"]) == ("val", 5, 11, scores)
    unchanged = [row for row in pq.read_table(found / "report_card.parquet").to_pylist() if row["level"] == 0]
    results = json.loads((found / "results.json").read_text())["scores"]
    for score in scores:
        for direction in ("image_to_text", "text_to_image"):
            rows = [row for row in unchanged if (row["score"], row["direction"]) == (score, direction)]
            expected = results[score][f"{direction}/recall_at_1"]["value"]
            assert recall(rows, {row["query"] for row in rows}, 1) == pytest.approx(expected)


def test_it_can_be_disabled_and_fast_dev_run_writes_nothing(checkpoint, tmp_path):
    off = run(checkpoint, tmp_path / "off", "--report_card.commands", "[]")
    run(checkpoint, tmp_path / "plain", command="validate")
    run(checkpoint, tmp_path / "trial", "--trainer.fast_dev_run", "true")
    assert (off / "results.json").is_file()
    assert not [path for name in FILES for path in tmp_path.rglob(name)]


def test_scenes_have_exact_variants_of_which_some_are_unseen(checkpoint, tmp_path):
    """The training shuffled words, so the swap of two words is of the same kind, and wrong details are not."""
    card = card_of_scenes(checkpoint, tmp_path)
    exact = {curve["name"]: curve["exact"] for curve in card["curves"]}
    assert exact["leave_out_facts"]
    assert exact["wrong_colour"]
    assert not exact["shuffle_words"]
    assert "keep_words" not in exact
    assert card["trained_negatives"] == ["shuffle_words"]
    assert {row["operation"] for row in card["discrimination"] if row["trained_on"]} == {"shuffle_words", "swap_words"}
    one, unseen = card["types"]["I"], card["types"]["I"]["unseen"]
    rows = [row for row in card["discrimination"] if row["score"] == "two_stage"]
    others = [row for row in rows if not row["trained_on"]]
    assert unseen["operations"] == [row["operation"] for row in others]
    assert {"wrong_colour", "wrong_shape"} < set(unseen["operations"])
    assert unseen["value"]["two_stage"]["value"] == pytest.approx(np.mean([row["value"] for row in others]))
    assert one["control"]["value"] == pytest.approx(np.mean([row["control"]["value"] for row in rows]))
    assert unseen["control"]["value"] == pytest.approx(np.mean([row["control"]["value"] for row in others]))
    assert "not trained on" in unseen["definition"]
    assert "mean of all other images" in card["control"]


def card_of_scenes(checkpoint: Path, root: Path, *flags: str) -> dict:
    scenes = ["--data.source", "Scenes", "--data.source.num_test", "6"]
    return json.loads((run(checkpoint, root, *scenes, *flags) / "report_card.json").read_text())


def test_an_older_checkpoint_takes_the_negatives_of_the_config(checkpoint, tmp_path):
    """Its record names none."""
    older = torch.load(checkpoint, weights_only=True)
    del older["RetrievalDataModule"]["provenance"]["negatives"]
    torch.save(older, checkpoint.with_name("older.ckpt"))
    flags = ["--data.negatives", "[ReplaceWord]", "--report_card.scores", "[independent]"]
    card = card_of_scenes(checkpoint.with_name("older.ckpt"), tmp_path, *flags)
    assert card["trained_negatives"] == ["replace_word"]
    assert card["types"]["I"]["unseen"]["operations"] == ["swap_words", "shuffle_words"]


def test_scores_of_variants_are_stored_with_the_module(checkpoint, tmp_path):
    cli = AsclCLI(arguments(checkpoint, tmp_path))
    rows = pq.read_table(tmp_path / "test" / "version_0" / "report_card.parquet").to_pylist()
    for name, operations in (("T+", {"append_siblings", "keep_words"}), ("T-", {"swap_words", "shuffle_words"})):
        of_texts = [row for row in rows if (row["score"], row["direction"]) == ("two_stage", "text_to_image")]
        expected = [row["own_score"] for row in of_texts if row["operation"] in operations and row["changed"]]
        np.testing.assert_allclose(np.sort(cli.model.findings.made_scores[name].numpy()), np.sort(expected))


def test_callbacks_may_come_in_any_order(checkpoint, folder, tmp_path, monkeypatch):
    """What one finds and another shows is there, whichever of them comes first."""
    test = AsclCLI.test

    def reverse_then_test(cli, **kwargs):
        cli.trainer.callbacks.reverse()
        test(cli, **kwargs)

    monkeypatch.setattr(AsclCLI, "test", reverse_then_test)
    turned = run(checkpoint, tmp_path)
    for name in ("histograms.json", "report_card.json"):
        assert json.loads((turned / name).read_text()) == json.loads((folder / name).read_text())
    assert json.loads((turned / "histograms.json").read_text())["counts"].keys() >= {"T+", "T-"}
    before, after = (json.loads((place / "results.json").read_text()) for place in (folder, turned))
    assert [before[key] == after[key] for key in ("leaks", "unchecked", "notes", "scores")] == [True] * 4


def test_only_fused_scores_of_variants_are_in_the_histograms(checkpoint, tmp_path):
    cli = AsclCLI(arguments(checkpoint, tmp_path, "--report_card.scores", "[independent]"))
    assert cli.model.findings.made_scores == {}
    histograms = json.loads((tmp_path / "test" / "version_0" / "histograms.json").read_text())
    assert histograms["counts"].keys() == {"positive", "other"}


def test_the_card_of_an_earlier_run_in_the_folder_is_deleted(checkpoint, tmp_path):
    run_in_one = ["--trainer.logger", "false"]
    assert main(arguments(checkpoint, tmp_path, *run_in_one)) == 0
    assert (tmp_path / "report_card.json").is_file()
    assert main(arguments(checkpoint, tmp_path, *run_in_one, "--report_card.commands", "[]")) == 0
    assert (tmp_path / "results.json").is_file()
    assert not (tmp_path / "report_card.json").exists()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--report_card.captions", "all"], "set --report_card.captions to what it was made with"),
        (["--data.source", "Scenes", "--data.source.num_test", "8"], "of other captions"),
    ],
)
def test_variants_that_do_not_fit_are_refused(checkpoint, folder, tmp_path, capsys, flags, problem):
    given = ["--report_card.variants", str(folder / "variants.parquet"), *flags]
    assert main(arguments(checkpoint, tmp_path, *given)) == 2
    assert problem in capsys.readouterr().err


def test_a_score_that_the_model_does_not_have_is_refused(checkpoint, tmp_path, capsys):
    flags = ["--model.similarity.local_weight", "0", "--report_card.scores", "[local]"]
    assert main(arguments(checkpoint, tmp_path, *flags)) == 2
    assert "no score 'local'" in capsys.readouterr().err
