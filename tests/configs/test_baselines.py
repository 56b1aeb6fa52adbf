"""The fragments that turn an experiment into a baseline: each trains and validates a batch."""

from pathlib import Path

import pytest
from tests.helpers.datasets import write_karpathy

from ascl_lightning.__main__ import main
from ascl_lightning.runtime.config_files import shipped_configs

TINY = str(Path(__file__).parent / "tiny.yaml")
CONFIGS = Path(__file__).parents[2] / "configs"
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
    assert main(["fit", *fragments, *places, "--trainer.fast_dev_run", "true"]) == 0
