"""Every test runs with shapes and types of the public signatures checked (jaxtyping and beartype)."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

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
