"""Every shipped config parses, prints, and trains and tests one batch on small data in the layout that it names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.helpers.datasets import write_karpathy, write_picture
from tests.helpers.hub_models import write_bert, write_clip, write_siglip, write_siglip2

from ascl_lightning.__main__ import main
from ascl_lightning.data.batch import RegionSpec

CONFIGS = Path(__file__).parents[2] / "configs"
SPLITS = {"train": 4, "val": 3, "test": 3}
COCO_FOLDERS = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}


def bert(root: Path) -> list[str]:
    write_bert(root / "bert")
    return ["--model.text_encoder.init_args.path", str(root / "bert")]


def small_timm() -> list[str]:
    prefix = "--model.image_encoder.init_args"
    return [f"{prefix}.name", "test_convnext", f"{prefix}.pretrained", "false", f"{prefix}.weights", "null"]


def scenes(root: Path) -> list[str]:
    sizes = (f"--data.source.init_args.num_{split}={size}" for split, size in SPLITS.items())
    return list(sizes)


def flickr8k(root: Path) -> list[str]:
    write_karpathy(root, SPLITS)
    return [*small_timm(), *bert(root), "--data.root", str(root)]


def flickr8k_upper(root: Path) -> list[str]:
    cuts = ("--model.image_encoder.init_args.cut", "stages.2", "--model.text_encoder.init_args.cut", "1")
    return [*flickr8k(root), *cuts]


def flickr30k(root: Path) -> list[str]:
    write_karpathy(root, SPLITS, filename="dataset_flickr30k.json", folder="flickr30k-images")
    return [*small_timm(), *bert(root), "--data.root", str(root), "--data.num_workers", "0"]


def coco(root: Path) -> list[str]:
    write_karpathy(root, SPLITS | {"restval": 2}, filename="dataset_coco.json", folder=".", subfolders=COCO_FOLDERS)
    return [*small_timm(), *bert(root), "--data.root", str(root), "--data.num_workers", "0"]


def coco_regions(root: Path) -> list[str]:
    regions = RegionSpec(36, 2048)
    splits = SPLITS | {"restval": 2}
    write_karpathy(
        root, splits, filename="dataset_coco.json", folder="regions", regions=regions, subfolders=COCO_FOLDERS
    )
    small = [*bert(root), "--data.num_workers", "0", "--data.root"]
    regions_in = ["--regions", "RegionFolder", "--regions.path", "regions", "--out", str(root / "features")]
    config = str(CONFIGS / "coco_regions.yaml")
    assert main(["extract", "--config", config, *small, str(root), *regions_in, "--variants", "0"]) == 0
    return [*small, str(root / "features"), "--data.source", "ExtractedFeatures"]


def clip(root: Path, write: Callable[[Path], None] = write_clip, width: int = 20) -> list[str]:
    write_karpathy(root, SPLITS, filename="dataset_flickr30k.json", folder="flickr30k-images")
    write(root / "pair")
    paths = (f"--model.{side}_encoder.init_args.path={root / 'pair'}" for side in ("image", "text"))
    shape = (f"--model.similarity.embed_dim={width}", "--model.similarity.num_heads=4")
    return [*paths, "--data.root", str(root), "--data.num_workers", "0", *shape]


def siglip2(root: Path, write: Callable[[Path], None] = write_siglip) -> list[str]:
    # the hub's SigLIP 2 pairs of a fixed size have the architecture of SigLIP
    return [*clip(root, write, width=16), "--model.image_encoder.init_args.token_grid=2"]


def own_data(root: Path) -> list[str]:
    for split, size in SPLITS.items():
        names = [f"{split}_{number}.png" for number in range(size)]
        for number, name in enumerate(names):
            write_picture(root / "images" / name, number)
        rows = [{"image": name, "captions": [f"a picture of {name}", "another one"]} for name in names]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [*small_timm(), *bert(root), "--data.root", str(root), "--data.num_workers", "0"]


SMALL = {
    "scenes": scenes,
    "own_data": own_data,
    "flickr8k": flickr8k,
    "flickr8k_paper": flickr8k,
    "flickr8k_upper": flickr8k_upper,
    "flickr30k": flickr30k,
    "coco": coco,
    "coco_regions": coco_regions,
    "clip": clip,
    "siglip2": siglip2,
}


def test_every_shipped_config_is_tried():
    # the sweep is W&B's: tests/configs/test_sweep.py
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - {"sweep"} == set(SMALL)


def run(command: str, config: str, root: Path, overrides: list[str]) -> int:
    return main(
        [
            command,
            *("--config", str(CONFIGS / f"{config}.yaml")),
            *("--trainer.default_root_dir", str(root / "runs")),
            *("--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"),
            *overrides,
        ]
    )


# `coco` has the model of `flickr30k` and the reader of `coco_regions`
@pytest.mark.parametrize(
    "config", [pytest.param(name, marks=[pytest.mark.slow] if name == "coco" else []) for name in SMALL]
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_one_batch_runs(command, config, tmp_path):
    overrides = SMALL[config](tmp_path)
    if command == "test" and config == "scenes":
        pytest.skip("its vocabulary travels in a checkpoint: tests/test_cli.py tests one")
    assert run(command, config, tmp_path, overrides) == 0


def test_a_pair_of_variable_shapes_takes_the_place_of_siglip2(tmp_path):
    assert run("fit", "siglip2", tmp_path, siglip2(tmp_path, write_siglip2)) == 0


@pytest.mark.parametrize(
    "tuning",
    [
        ["lora.rank=2", "lora.targets=[q_proj, v_proj]"],
        ["lora={}", "layer_decay=0.5", "checkpointing=true"],
        ["thaw_after=0.1", "layer_decay=1"],
    ],
)
def test_towers_are_tuned_from_the_command_line(tuning, tmp_path):
    flags = (f"--model.{side}_encoder.init_args.tuning.{option}" for side in ("image", "text") for option in tuning)
    assert run("fit", "clip", tmp_path, [*clip(tmp_path), *flags]) == 0


@pytest.mark.slow
def test_the_upper_parts_of_towers_are_trained_from_their_stored_activations(tmp_path):
    """From extraction to a test on the pictures."""
    small = flickr8k_upper(tmp_path)
    config = ["--config", str(CONFIGS / "flickr8k_upper.yaml"), "--trainer.accelerator", "cpu", *small]
    features = str(tmp_path / "features")
    assert main(["extract", *config, "--out", features]) == 0
    stored = ["--data.source", "ExtractedFeatures", "--data.root", features]
    runs = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.max_epochs", "3"]
    assert main(["fit", *config, *runs, *stored]) == 0
    assert main(["test", *config, *runs, *stored, "--ckpt_path", "best"]) == 0
    assert main(["test", *config, *runs, "--ckpt_path", "best"]) == 0
    assert len(list((tmp_path / "runs" / "test").rglob("results.json"))) == 2


@pytest.mark.parametrize("config", SMALL)
def test_print_config_shows_the_whole_experiment(config, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), "--print_config"])
    assert stop.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["similarity"]["init_args"]["num_heads"] in (1, 8)
    assert shown["trainer"]["gradient_clip_val"] > 0
    assert shown["data"]["source"]["class_path"].startswith("ascl_lightning.data.sources")
