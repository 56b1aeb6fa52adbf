"""The wheel works where nothing else is: no clone, no development packages, an empty folder.

As `make` does, it takes packages from the index that `uv` is set up with; without one the tests are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
SMALL = [
    *(f"--data.source.init_args.num_{split}={size}" for split, size in {"train": 24, "val": 6, "test": 6}.items()),
    *("--trainer.accelerator", "cpu"),
]
# the weights from Python: of captions, the embeddings that `ascl predict` wrote; of a picture, a score
LOADED = """
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

import ascl_lightning
from ascl_lightning import Retriever

weights, predicted = map(Path, sys.argv[1:])
assert Path(ascl_lightning.__file__).is_relative_to(sys.prefix), ascl_lightning.__file__
model = Retriever.from_pretrained(weights)
texts = model.encode_texts(json.loads((predicted / "items-0.json").read_text())["captions"])
expected = load_file(predicted / "embeddings-0.safetensors")["text_embeds"]
torch.testing.assert_close(texts.embeds, expected, rtol=0, atol=1e-6)
print(tuple(model.score([Image.new("RGB", (64, 48))], texts).shape))
"""


def ended(*command: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command in an environment that knows nothing of the clone."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that succeeds."""
    process = ended(*command, cwd=cwd)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    return process.stdout


def require_index(folder: Path) -> None:
    """Skips the test if no package index answers: even the wheel needs its build backend from one."""
    asked = ("--dry-run", "--no-deps", "--reinstall-package", "hatchling", "hatchling")
    process = ended(UV, "pip", "install", "--python", sys.executable, *asked, cwd=folder)
    if process.returncode:
        pytest.skip(f"no package index answers: {' '.join(process.stderr.split())[:300]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    require_index(folder)
    run(UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_configs_and_its_types(wheel):
    held = set(ZipFile(wheel).namelist())
    configs = {f"ascl_lightning/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    package = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert configs | package | {"ascl_lightning/py.typed"} <= held
    assert {name.partition("/")[0] for name in held if ".dist-info/" not in name} == {"ascl_lightning"}


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> Iterator[Path]:
    """Programs of an environment with nothing but the wheel and what it needs."""
    folder = tmp_path / "environment"
    run(UV, "venv", "--quiet", "--python", sys.executable, folder, cwd=tmp_path)
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *constraints, wheel, cwd=tmp_path)
    yield folder / "bin"
    shutil.rmtree(folder)  # gigabytes


@pytest.mark.slow
def test_the_wheel_trains_tests_and_loads(environment, tmp_path):
    python, ascl, folder = environment / "python", environment / "ascl", tmp_path / "empty"
    folder.mkdir()
    run(ascl, "fit", "--config", "scenes", *SMALL, "--trainer.max_epochs", "1", cwd=folder)
    run(ascl, "test", "--config", "scenes", *SMALL, "--ckpt_path", "best", cwd=folder)
    run(ascl, "predict", "--config", "scenes", *SMALL, "--ckpt_path", "best", cwd=folder)
    runs = folder / "runs"
    assert (runs / "test" / "version_0" / "report.html").is_file()
    results = json.loads((runs / "test" / "version_0" / "results.json").read_text())
    assert results["command"].startswith("ascl test --config scenes")
    shown = run(python, "-c", LOADED, runs / "fit/version_0/weights", runs / "predict/version_0", cwd=folder)
    assert shown.splitlines()[-1] == "(1, 30)"  # six scenes of five captions
    assert sorted(path.name for path in folder.iterdir()) == ["runs"]
