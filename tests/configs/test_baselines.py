"""The fragments that turn an experiment into a baseline: each trains and validates a batch."""

import re
from pathlib import Path

import pytest
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.runtime.config_files import shipped_configs

TINY = str(Path(__file__).parent / "tiny.yaml")
CONFIGS = Path(__file__).parents[2] / "configs"
FROZEN = [f"--model.{side}_encoder.init_args.tuning.frozen=true" for side in ("image", "text")]
NEEDED = {"fusemix": ["--model.loss", "InfoNCE", *FROZEN]}
"""What an experiment must have besides."""
BASELINES = sorted(path.stem for path in CONFIGS.glob("baselines/*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_karpathy(root, {"train": 4, "val": 4}, captions=2)
    return root


@pytest.mark.parametrize("name", BASELINES)
def test_one_batch_runs(name: str, data: Path, tmp_path: Path) -> None:
    assert f"baselines/{name}" in shipped_configs()
    fragments = ("--config", TINY, "--config", f"baselines/{name}")
    places = ("--data.root", str(data), "--trainer.default_root_dir", str(tmp_path))
    assert main(["fit", *fragments, *places, *NEEDED.get(name, []), "--trainer.fast_dev_run", "true"]) == 0


def test_fusemix_names_what_is_missing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fragments = ("--config", TINY, "--config", "baselines/fusemix", "--model.loss", "InfoNCE", FROZEN[0])
    places = ("--data.root", str(data), "--trainer.default_root_dir", str(tmp_path))
    assert main(["fit", *fragments, *places, "--model.similarity.local_weight", "0.5"]) == 2
    assert "set model.similarity.local_weight to 0" in capsys.readouterr().err
    assert main(["fit", *fragments, *places]) == 2
    assert "set tuning.frozen of both towers to true" in capsys.readouterr().err


def test_samples_show_joined_captions(data: Path, tmp_path: Path) -> None:
    fragments = ("--config", TINY, "--config", "baselines/mixgen", "--data.mixing.init_args.probability", "1")
    page = tmp_path / "samples.html"
    assert main(["samples", *fragments, "--data.root", str(data), "--html", str(page)]) == 0
    assert len(re.findall(r"number \d a [^<]* number \d</dd>", page.read_text())) == 4
