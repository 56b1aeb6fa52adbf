"""The recipes of docs/recipes.md: from fine-tuning to interpolated weights, and on the devices that they name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
import yaml
from tests.helpers.datasets import write_karpathy
from tests.helpers.hub_models import write_siglip

from ascl_lightning.__main__ import main

pytestmark = pytest.mark.usefixtures("without_page")

ON_CPU = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    splits = {"train": 8, "val": 4, "test": 4}
    write_karpathy(root, splits, 2, filename="dataset_flickr30k.json", folder="flickr30k-images")
    write_siglip(root / "pair")
    return root


@pytest.fixture
def one_process() -> Iterator[None]:
    """Ends the process group that a strategy starts, and forgets its address."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def siglip2(root: Path, runs: Path) -> list[str]:
    """Paths and sizes of a small pair; all else is the recipe's."""
    towers = [f"--model.{side}_encoder.init_args.path={root / 'pair'}" for side in ("image", "text")]
    sizes = ["--model.image_encoder.init_args.token_grid=2", "--model.similarity.embed_dim=16"]
    places = ["--data.root", str(root), "--data.num_workers", "0", "--trainer.default_root_dir", str(runs)]
    return ["--config", "siglip2", *towers, *sizes, *places]


@pytest.mark.slow
def test_from_fine_tuning_to_interpolated_weights(root: Path, tmp_path: Path) -> None:
    given = [*siglip2(root, tmp_path), *ON_CPU, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    assert main(["fit", *given]) == 0
    assert main(["interpolate", *given, "--ckpt_path", "best", "--weights", "[0, 0.5]"]) == 0
    (interpolated,) = tmp_path.glob("fit/*/checkpoints/interpolated.ckpt")
    assert main(["test", *given, "--ckpt_path", str(interpolated)]) == 0
    assert len(list(tmp_path.glob("test/*/results.json"))) == 1


def test_eight_gpus_have_batches_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "siglip2", "--config", "trainer/eight_gpus", "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    trainer = {name: shown["trainer"][name] for name in ("accelerator", "devices", "strategy", "precision")}
    assert trainer == {"accelerator": "gpu", "devices": 8, "strategy": "ddp", "precision": "bf16-mixed"}
    assert shown["data"]["batch_size"] == 64
    made = [operation["class_path"].rpartition(".")[2] for operation in shown["data"]["positives"]]
    assert made == ["JoinCaptions", "FirstHalf"]
    assert len(shown["data"]["negatives"]) == 1


@pytest.mark.usefixtures("one_process")
def test_every_weight_is_trained_under_ddp(root: Path, tmp_path: Path) -> None:
    """DDP refuses a second step if a trained weight got no gradient in the first."""
    given = [*siglip2(root, tmp_path), "--config", "trainer/eight_gpus", *ON_CPU, "--trainer.devices", "1"]
    assert main(["fit", *given, "--data.batch_size", "4", "--trainer.fast_dev_run", "2"]) == 0
