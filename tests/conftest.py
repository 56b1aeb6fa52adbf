"""Every test runs with shapes and types of the public signatures checked (jaxtyping and beartype)."""

import os
from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

# before torch is imported: forks of a process whose threads have computed may hang
os.environ.setdefault("OMP_NUM_THREADS", "1")
install_import_hook("ascl_lightning", "beartype.beartype")


@pytest.fixture(scope="module")
def without_page() -> Iterator[None]:
    """Evaluations write no page, which takes most of the time of a small one; tests/commands/test_report.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ascl_lightning.cli.write_report", lambda folder: folder / "report.html")
        yield
