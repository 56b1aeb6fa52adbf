"""The commands end to end, in this process, on small data."""

import csv
import json
import os
import resource
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.datasets import write_karpathy
from tests.helpers.processes import run_forked

from ascl_lightning.__main__ import main
from ascl_lightning.commands.extract import ExtractCLI

pytestmark = pytest.mark.usefixtures("without_page")

WAYS = ("image_to_text", "text_to_image")
TINY = str(Path(__file__).parent / "configs" / "tiny.yaml")
CONFIGS = Path(__file__).parents[1] / "configs"
COCO_MINI = Path(__file__).parents[2] / "shared" / "coco_mini"


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with data that has no test split, and a run on it."""
    root = tmp_path_factory.mktemp("trained")
    write_karpathy(root / "data", {"train": 9, "val": 4}, captions=[2, 3, 1])
    assert main(["fit", "--config", TINY, *at(root, root / "data")]) == 0
    return root


def at(root: Path, data: Path) -> list[str]:
    return ["--trainer.default_root_dir", str(root / "runs"), "--data.root", str(data)]


def test_fit_leaves_metrics_checkpoints_and_its_configuration(trained):
    run = only(trained, "runs/fit/version_0")
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last-00000003.ckpt", "last-00000006.ckpt"}, "two epochs of three steps"
    with (run / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert {"train/loss", "train/loss_type_i", "train/loss_type_ii_iii", "val/rsum"} <= logged[0].keys()
    assert {f"val/{way}/recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)} <= logged[
        0
    ].keys()
    assert len([row for row in logged if row["val/rsum"]]) == 2
    assert "FirstHalf" in (run / "config.yaml").read_text()


def test_the_best_checkpoint_is_the_one_with_the_highest_rsum(trained):
    checkpoint = torch.load(only(trained, "runs/fit/*/checkpoints/best.ckpt"), weights_only=True)
    with only(trained, "runs/fit/*/metrics.csv").open() as file:
        rsums = [float(row["val/rsum"]) for row in csv.DictReader(file) if row["val/rsum"]]
    state = next(value for name, value in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert float(state["best_model_score"]) == pytest.approx(max(rsums))


def test_a_checkpoint_is_tested_on_another_folder_with_a_test_split_alone(trained, tmp_path, capsys):
    write_karpathy(tmp_path / "other", {"test": 5}, captions=[1, 0, 7], first=100)
    checkpoint = str(only(trained, "runs/fit/*/checkpoints/best.ckpt"))
    assert main(["test", "--config", TINY, *at(tmp_path, tmp_path / "other"), "--ckpt_path", checkpoint]) == 0
    shown = capsys.readouterr().out
    run = only(tmp_path, "runs/test/version_0")
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    recalls = [metrics[f"test/{way}/recall_at_{k}"] for way in WAYS for k in (1, 5, 10)]
    assert metrics["test/rsum"] == pytest.approx(sum(recalls))
    assert f"{metrics['test/rsum']:.1f}" in shown
    assert "i2t" in shown
    assert {"examples.json", "attention.json", "histograms.json", "latency.json"} <= {
        path.name for path in run.iterdir()
    }


def test_a_checkpoint_keeps_its_vocabulary_when_the_data_change(trained, tmp_path):
    """The vocabulary comes from the checkpoint, not from the data under test."""
    for name in ("a", "b"):
        write_karpathy(tmp_path / name, {"test": 4} | ({"train": 30} if name == "b" else {}), captions=2, first=100)
        if name == "b":  # the same test images and captions in both
            (tmp_path / "b" / "dataset_flickr8k.json").write_text(
                json.dumps(
                    {
                        "images": json.loads((tmp_path / "a" / "dataset_flickr8k.json").read_text())["images"]
                        + [
                            image
                            for image in json.loads((tmp_path / "b" / "dataset_flickr8k.json").read_text())["images"]
                            if image["split"] == "train"
                        ]
                    }
                )
            )
        arguments = [*at(tmp_path / name, tmp_path / name), "--ckpt_path"]
        main(["test", "--config", TINY, *arguments, str(only(trained, "runs/fit/*/checkpoints/best.ckpt"))])
    first, second = (
        json.loads(only(tmp_path / name, "runs/test/*/results.json").read_text())["scores"] for name in "ab"
    )
    assert first == second


def test_the_data_know_whether_the_model_reads_tokens(tmp_path):
    flags = ["--config", TINY, "--out", str(tmp_path)]
    assert ExtractCLI(["extract", *flags]).datamodule.with_tokens
    flags += ["--model.similarity.local_weight", "0", "--model.similarity.global_fusion", "none"]
    assert not ExtractCLI(["extract", *flags, "--model.word_features", "null"]).datamodule.with_tokens


def test_exported_weights_are_tested_as_their_checkpoint_is(trained, tmp_path, capsys):
    """The vocabulary and the configuration come from the exported folder: there is no training split."""
    write_karpathy(tmp_path / "other", {"test": 5}, captions=[1, 0, 7], first=100)
    weights = only(trained, "runs/fit/*/weights")
    best = only(trained, "runs/fit/*/checkpoints/best.ckpt")
    figures = []
    for config, checkpoint in ((TINY, best), (TINY, weights), (weights / "config.yaml", weights / "model.safetensors")):
        arguments = [*at(tmp_path, tmp_path / "other"), "--ckpt_path", str(checkpoint)]
        assert main(["test", "--config", str(config), *arguments]) == 0
        figures.append(json.loads(max(tmp_path.glob("runs/test/version_*/results.json")).read_text())["scores"])
    assert figures[0] == figures[1] == figures[2]
    state, tensors = torch.load(best, weights_only=True)["state_dict"], load_file(weights / "model.safetensors")
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())
    assert main(["fit", "--config", TINY, *at(trained, trained / "data"), "--ckpt_path", str(weights)]) == 2
    assert "training cannot resume from weights alone" in capsys.readouterr().err


def test_the_model_card_says_what_the_run_knows(trained):
    card = only(trained, "runs/fit/*/weights/README.md").read_text()
    with only(trained, "runs/fit/*/metrics.csv").open() as file:
        validated = [row for row in csv.DictReader(file) if row["val/rsum"]]
    best = max(validated, key=lambda row: float(row["val/rsum"]))
    ways = {"image to text": "image_to_text", "text to image": "text_to_image"}
    for label, way in ways.items():
        (line,) = (line for line in card.splitlines() if line.startswith(f"| {label} |"))
        cells = [cell.strip() for cell in line.split("|")[2:5]]
        assert cells == [f"{float(best[f'val/{way}/recall_at_{k}']):.1f}" for k in (1, 5, 10)]
    steps = int(best["step"]) + 1
    # 9 images with 2, 3, 1, 2, ... captions
    for fact in (f"| optimizer steps | {steps} |", "| train split | 9 images, 18 captions |", "`val/rsum`"):
        assert fact in card
    assert "KarpathyJson(annotations=dataset_flickr8k.json" in card
    assert "ConvImageEncoder(image_size=32" in card
    assert "JoinCaptions, FirstHalf, ShuffleWords" in card
    assert "&#" not in card, "escaped as a page of HTML is"
    assert str(trained) not in card, "where this machine keeps its data is nobody's business"


def test_best_is_found_under_the_root(trained, tmp_path, capsys):
    assert main(["validate", "--config", TINY, *at(trained, trained / "data"), "--ckpt_path", "best"]) == 0
    assert "Validation split" in capsys.readouterr().out


def test_predict_writes_embeddings_with_their_names(trained, tmp_path):
    write_karpathy(tmp_path / "other", {"test": 3}, captions=[2, 0, 1])
    checkpoint = str(only(trained, "runs/fit/*/checkpoints/best.ckpt"))
    assert main(["predict", "--config", TINY, *at(tmp_path, tmp_path / "other"), "--ckpt_path", checkpoint]) == 0
    run = only(tmp_path, "runs/predict/version_0")
    tensors, items = load_file(run / "embeddings-0.safetensors"), json.loads((run / "items-0.json").read_text())
    assert tensors["image_embeds"].shape == (3, 16)
    assert tensors["text_embeds"].shape == (3, 16)
    assert tensors["text_image_ids"].tolist() == [0, 0, 2]
    assert items["image_ids"] == ["test_0000.jpg", "test_0001.jpg", "test_0002.jpg"]
    assert len(items["captions"]) == 3


def test_samples_shows_what_training_sees(trained, capsys):
    arguments = ["samples", "--config", TINY, "--data.root", str(trained / "data"), "--count", "3"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert first.count("shuffle_words") == 2 * 3
    assert "join_captions" in first or "first_half" in first
    main([*arguments, "--epoch", "1"])
    assert capsys.readouterr().out != first
    main(arguments)
    assert capsys.readouterr().out == first


MISTAKES = {
    "missing config": (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "no folder": (["fit", "--config", TINY], "--data.root"),
    "unknown backbone": (
        [
            "fit",
            "--config",
            TINY,
            "--model.image_encoder",
            "TimmImageEncoder",
            "--model.image_encoder.name",
            "resnet51",
        ],
        "resnet50",
    ),
    "unknown class": (["fit", "--config", TINY, "--model.loss", "TripletLos"], "TripletLos"),
    "unknown flag": (["fit", "--config", TINY, "--data.rooot", "x"], "rooot"),
    "no such checkpoint": (["test", "--config", TINY, "--ckpt_path", "nowhere.ckpt"], "no such file"),
    "no run yet": (
        ["test", "--config", TINY, "--ckpt_path", "best", "--trainer.default_root_dir", "nowhere"],
        "ascl fit",
    ),
    "nothing to go on from": (
        ["fit", "--config", TINY, "--ckpt_path", "last", "--trainer.default_root_dir", "nowhere"],
        "no run under 'nowhere'",
    ),
    "an address": (["test", "--config", TINY, "--ckpt_path", "https://host/best.ckpt"], "addresses are not loaded"),
    "no training to resume": (["test", "--config", TINY, "--resume"], "--resume: only for `ascl fit`"),
    "heads do not divide": (["fit", "--config", TINY, "--model.similarity.num_heads", "3"], "num_heads 3"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_code_2(mistake, capsys):
    args, advice = MISTAKES[mistake]
    assert main(args) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1].startswith("ascl: error: ")
    assert advice in shown[-1]
    assert not any("Traceback" in line for line in shown)


BAD_VALUES = {
    "--data.batch_size 0": "--data.batch_size: expected a number greater than 0",
    "--data.batch_size true": "--data.batch_size: expected a",
    "--data {batch_size: true}": "expected a number, got 'True'",
    "--data.num_workers -1": "greater than or equal to 0, got '-1'",
    "--data.captions_per_image 0": "greater than 0 or null, got '0'",
    "--data.root nowhere": "there is no folder 'nowhere'",
    "--data.seed -1": "--data.seed: expected",
    "--data.seed 4294967296": "--data.seed: expected",
    "--model.optimizer.lr -1": "Invalid learning rate: -1",
    "--model.similarity.embed_dim 0": "embed_dim: expected a number",
    "--model.image_encoder.image_size 0": "image_size: expected a number",
    "--model.text_encoder.vocab_size 1": "or equal to 2, got '1'",
    "--model.fold_size 0": "--model.fold_size: expected",
    "--trainer.accelerator tpu": "trainer's config is invalid",
    "--trainer.devices x": "--trainer.devices: ",
    "--trainer.callbacks &a [*a]": "contains itself",
    "--trainer {max_epochs: 0}": "--trainer.max_epochs 0",
    "--data.negatives [DropWrod]": "choose from AppendOtherCaption, DeleteWords, ",
}


@pytest.mark.parametrize("flag", BAD_VALUES)
def test_a_bad_value_is_one_line_before_the_run_has_a_folder(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, _, value = flag.partition(" ")
    assert main(["fit", "--config", TINY, name, value]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert BAD_VALUES[flag] in shown[-1]
    assert "Union" not in shown[-1]
    assert not any("Traceback" in line for line in shown)
    assert not list(tmp_path.iterdir())


def test_broken_json_is_one_line_that_names_the_file(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "dataset_flickr8k.json").write_text('{"images": [')
    assert main(["fit", "--config", TINY, *at(tmp_path, tmp_path)]) == 2
    assert "dataset_flickr8k.json" in capsys.readouterr().err.splitlines()[-1]


def as_nobody(arguments: list[str]) -> int:
    """Runs a command as somebody else than root, who may write everywhere."""
    if os.getuid() == 0:
        os.setuid(65534)
    return main(arguments)


def test_a_root_that_may_not_be_written_is_named():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        write_karpathy(Path(folder) / "data", {"train": 4, "val": 2})
        root = Path(folder) / "runs"
        root.mkdir()
        root.chmod(0o555)
        ended = run_forked(as_nobody, ["fit", "--config", TINY, *at(Path(folder), Path(folder) / "data")])
    assert ended.returncode == 2
    assert (
        ended.stderr.splitlines()[-1]
        == f"ascl: error: cannot write '{root}/fit': Permission denied; make it writable or choose another place"
    )


def on_a_full_disk(arguments: list[str]) -> int:
    """Runs a command that may write no file of a megabyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    return main(arguments)


def test_a_disk_that_is_full_ends_the_training_and_names_the_checkpoint(trained, tmp_path):
    ended = run_forked(on_a_full_disk, ["fit", "--config", TINY, *at(tmp_path, trained / "data")])
    assert ended.returncode == 2
    folder = tmp_path / "runs/fit/version_0/checkpoints"
    said = f"ascl: error: cannot write '{folder}/best.ckpt': File too large"
    assert ended.stderr.splitlines()[-1].startswith(said)
    assert list(folder.iterdir()) == []


def test_ctrl_c_before_the_training_exits_with_130(trained, tmp_path):
    flags = ["--trainer.callbacks.hook", "on_fit_start", "--trainer.callbacks.at", "0"]
    interrupt = [
        "--trainer.callbacks+=tests.helpers.interruptions.Interrupt",
        *flags,
        "--trainer.callbacks.number",
        "2",
    ]
    try:
        with pytest.raises(SystemExit) as caught:
            main(["fit", "--config", TINY, *at(tmp_path, trained / "data"), *interrupt])
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
    assert caught.value.code == 130


def test_a_missing_split_is_named(trained, capsys):
    arguments = at(trained, trained / "data")
    assert main(["test", "--config", TINY, *arguments, "--ckpt_path", "last"]) == 2
    assert "no split 'test'" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_another_model_gives_a_one_line_error(trained, tmp_path, capsys):
    write_karpathy(tmp_path, {"test": 2}, first=100)
    checkpoint = str(only(trained, "runs/fit/*/checkpoints/best.ckpt"))
    other = ["--model.similarity.embed_dim", "8"]
    assert main(["test", "--config", TINY, *at(tmp_path, tmp_path), "--ckpt_path", checkpoint, *other]) == 2
    assert "does not fit the model" in capsys.readouterr().err.splitlines()[-1]


def test_configuration_in_a_checkpoint_is_not_read(trained, tmp_path):
    """A config is code: what a checkpoint calls its class must never be imported."""
    write_karpathy(tmp_path, {"test": 2}, first=100)
    checkpoint = torch.load(only(trained, "runs/fit/*/checkpoints/best.ckpt"), weights_only=True)
    checkpoint["hyper_parameters"] = {"_class_path": "antigravity.Model", "loss": "nonsense"}
    torch.save(checkpoint, tmp_path / "planted.ckpt")
    arguments = [*at(tmp_path, tmp_path), "--ckpt_path", str(tmp_path / "planted.ckpt")]
    assert main(["test", "--config", TINY, *arguments]) == 0


@pytest.mark.slow
def test_training_completes_without_an_answer_from_wandb(trained, tmp_path):
    """The user asks for W&B online, and nobody listens."""
    logger = ["--trainer.logger+=WandbLogger", "--trainer.logger.offline", "false", "--trainer.logger.save_dir", "runs"]
    arguments = ["--data.root", str(trained / "data"), "--trainer.max_epochs", "1"]
    environment = os.environ | {
        "HOME": str(tmp_path / "home"),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "0" * 40,
    }
    command = ["fit", "--config", TINY, *logger, *arguments]
    ended = run_forked(main, command, cwd=tmp_path, environment=environment)
    assert ended.returncode == 0, ended.stderr
    assert "does not answer: recording offline" in ended.stderr
    assert b"val/rsum" in only(tmp_path, "runs/wandb/offline-run-*/run-*.wandb").read_bytes()


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs the 80 MSCOCO photos of shared/coco_mini")
def test_real_coco_files_train_and_test_with_splits_drawn_by_share(tmp_path):
    arguments = [
        *("--config", TINY, "--data", str(CONFIGS / "data" / "coco_captions.yaml")),
        *at(tmp_path, COCO_MINI),
        *("--trainer.max_epochs", "1", "--model.text_encoder.vocab_size", "600"),
    ]
    assert main(["fit", *arguments]) == 0
    assert main(["test", *arguments, "--ckpt_path", "last"]) == 0
    metrics = json.loads(only(tmp_path, "runs/test/*/results.json").read_text())["metrics"]
    assert 0 <= metrics["test/rsum"] <= 600


def test_a_test_reports_the_frontier_of_two_stage_search(trained, tmp_path, capsys):
    checkpoint = str(only(trained, "runs/fit/*/checkpoints/best.ckpt"))
    write_karpathy(tmp_path / "data", {"test": 5}, first=100)
    arguments = [*at(tmp_path, tmp_path / "data"), "--ckpt_path", checkpoint, "--retrieval", "two_stage"]
    assert main(["test", "--config", TINY, *arguments]) == 0
    rows = json.loads(only(tmp_path, "runs/test/*/two_stage.json").read_text())
    metrics = json.loads(only(tmp_path, "runs/test/*/results.json").read_text())["metrics"]
    assert rows[0]["shortlist"] == "fixed"
    assert rows[-1]["rSum"] == pytest.approx(metrics["test/rsum"])
    assert rows[-1]["text_to_image/mean_rank"] == pytest.approx(metrics["test/text_to_image/mean_rank"])
    assert "Two-stage search" in capsys.readouterr().out
