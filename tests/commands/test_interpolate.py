import json
from pathlib import Path

import pytest
import torch
from tests.helpers.datasets import write_karpathy
from tests.helpers.hub_models import write_bert, write_clip

from ascl_lightning.__main__ import main
from ascl_lightning.models import ClipImageEncoder, ClipTextEncoder

pytestmark = pytest.mark.usefixtures("without_page")

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS.parent / "tests" / "configs" / "tiny.yaml")
TOWERS = ("image_encoder", "text_encoder")


def arguments(root: Path, *more: str) -> list[str]:
    """A CLIP pair without projections, as `configs/clip.yaml` has it."""
    return [
        *("--config", str(CONFIGS / "clip.yaml"), "--trainer.accelerator", "cpu", "--trainer.precision", "32"),
        *("--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(root / "runs")),
        *(f"--model.{side}.init_args.path={root / 'pair'}" for side in TOWERS),
        *("--model.similarity.embed_dim=20", "--model.similarity.num_heads=4"),
        *("--data.root", str(root), "--data.num_workers", "0", "--trainer.max_epochs", "1"),
        *more,
    ]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    """A folder with data, a pair, and a run that has trained it on."""
    root = tmp_path_factory.mktemp("tuned")
    write_karpathy(
        root, {"train": 8, "val": 6, "test": 6}, 2, filename="dataset_flickr30k.json", folder="flickr30k-images"
    )
    write_clip(root / "pair")
    rates = [f"--model.{side}.init_args.tuning.learning_rate=0.01" for side in TOWERS]
    assert main(["fit", *arguments(root, *rates)]) == 0
    return root


def best(root: Path) -> Path:
    (found,) = root.glob("runs/fit/*/checkpoints/best.ckpt")
    return found


def test_the_best_interpolation_is_saved(tuned, tmp_path, capsys):
    out = tmp_path / "half.ckpt"
    given = arguments(tuned, "--ckpt_path", "best", "--weights", "[0.25]", "--out", str(out))
    assert main(["interpolate", *given]) == 0
    shown = capsys.readouterr().out
    weight = float(shown.rpartition("Weight ")[2].partition(":")[0])
    assert weight in (0.25, 1.0)
    starts = {
        "image_encoder": ClipImageEncoder(str(tuned / "pair")).state_dict(),
        "text_encoder": ClipTextEncoder(str(tuned / "pair")).state_dict(),
    }
    end, written = (torch.load(path, weights_only=True)["state_dict"] for path in (best(tuned), out))
    for tower, start in starts.items():
        for name, value in start.items():
            full = f"model.{tower}.{name}"
            torch.testing.assert_close(written[full], (1 - weight) * value + weight * end[full])
    assert torch.equal(written["loss.temperature.log_temperature"], end["loss.temperature.log_temperature"])
    said, tuned_on = (torch.load(path, weights_only=True)["RetrievalDataModule"] for path in (out, best(tuned)))
    assert said["provenance"] == tuned_on["provenance"], "it was chosen on the same split by the same metric"


def figures(shown: str) -> dict[str, list[str]]:
    """Rows of the table, by their weight."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def logged(root: Path) -> dict[str, float]:
    """The newest validation's metrics."""
    newest = max(root.glob("runs/validate/*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    head, row = newest.read_text().splitlines()[:2]
    return dict(zip(head.split(","), map(float, row.split(",")), strict=True))


def row_of(metrics: dict[str, float]) -> list[str]:
    names = ("rsum", "image_to_text/recall_at_1", "text_to_image/recall_at_1")
    return [f"{metrics[f'val/{name}']:.1f}" for name in names]


@pytest.mark.slow
def test_weights_0_and_1_are_the_pretrained_and_the_fine_tuned_model(tuned, capsys):
    assert main(["interpolate", *arguments(tuned, "--ckpt_path", "best", "--weights", "[0, 0.5, 1]")]) == 0
    rows = figures(capsys.readouterr().out)
    assert list(rows) == ["0", "0.5", "1"]
    assert main(["validate", *arguments(tuned)]) == 0
    assert rows["0"] == row_of(logged(tuned))
    assert main(["validate", *arguments(tuned, "--ckpt_path", "best")]) == 0
    assert rows["1"] == row_of(logged(tuned))
    written = best(tuned).with_name("interpolated.ckpt")
    assert main(["validate", *arguments(tuned, "--ckpt_path", str(written))]) == 0
    assert row_of(logged(tuned)) == max(rows.values(), key=lambda row: float(row[2]))
    assert main(["test", *arguments(tuned, "--ckpt_path", str(written))]) == 0
    (metrics,) = tuned.glob("runs/test/*/results.json")
    assert "test/rsum" in json.loads(metrics.read_text())["metrics"]


def test_towers_without_pretrained_weights_are_refused(tmp_path, capsys):
    write_karpathy(tmp_path / "data", {"train": 4, "val": 4}, captions=2)
    given = ["--config", TINY, "--data.root", str(tmp_path / "data"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *given]) == 0
    assert main(["interpolate", *given, "--ckpt_path", "best"]) == 2
    assert "nothing to interpolate" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_another_model_gives_a_one_line_error(tuned, capsys):
    other = ["--model.loss.learn_temperature", "false"]
    assert main(["interpolate", *arguments(tuned, "--ckpt_path", "best", *other)]) == 2
    assert "does not fit the model" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("weights", ["[1.5]", "[-0.1]"])
def test_weights_are_between_0_and_1(tuned, weights, capsys):
    assert main(["interpolate", *arguments(tuned, "--ckpt_path", "best", "--weights", weights)]) == 2
    assert "weights" in capsys.readouterr().err.splitlines()[-1]


def test_parameters_that_were_not_pretrained_stay_fine_tuned(tuned, tmp_path):
    """A pretrained text tower beside an image tower and heads from scratch; the vocabulary is the tower's own."""
    write_bert(tmp_path / "bert")
    given = [
        *("--config", TINY, "--data.root", str(tuned), "--trainer.default_root_dir", str(tmp_path / "runs")),
        *(
            "--data.source.init_args.annotations=dataset_flickr30k.json",
            "--data.source.init_args.images=flickr30k-images",
        ),
        *("--model.text_encoder=TransformersTextEncoder", f"--model.text_encoder.init_args.path={tmp_path / 'bert'}"),
        *("--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01"),
    ]
    assert main(["fit", *given]) == 0
    out = tmp_path / "start.ckpt"
    assert main(["interpolate", *given, "--ckpt_path", "best", "--weights", "[0, 0.5]", "--out", str(out)]) == 0
    end, written = (torch.load(path, weights_only=True)["state_dict"] for path in (best(tmp_path), out))
    for name, value in end.items():
        if not name.startswith("model.text_encoder."):
            assert torch.equal(written[name], value), name
