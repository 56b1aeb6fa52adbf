"""Every test runs with shapes and types of the public signatures checked (jaxtyping and beartype)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# before torch is imported: forks of a process whose threads have computed may hang
os.environ.setdefault("OMP_NUM_THREADS", "1")
install_import_hook("ascl_lightning", "beartype.beartype")

from tests.helpers.datasets import write_karpathy  # noqa: E402 — after the hook
from tests.helpers.recordings import record  # noqa: E402


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs and a test of its best checkpoint, both recorded by W&B offline."""
    root = tmp_path_factory.mktemp("recorded")
    write_karpathy(root / "data", {"train": 9, "val": 4, "test": 5}, captions=[2, 3, 1])
    record(root, "fit")
    record(root, "test", "--ckpt_path", "best")
    return root


@pytest.fixture(scope="module")
def without_page() -> Iterator[None]:
    """Evaluations write no page, which takes most of the time of a small one; tests/commands/test_report.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ascl_lightning.cli.write_report", lambda folder: folder / "report.html")
        yield
