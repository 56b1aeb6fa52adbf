"""Every test runs with shapes and types of the public signatures checked (jaxtyping and beartype)."""

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from jaxtyping import install_import_hook

# before torch is imported: forks of a process whose threads have computed may hang
os.environ.setdefault("OMP_NUM_THREADS", "1")
# no test needs a network: without it, a missing folder is looked up on the hub for 20 seconds
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a shell that starts this in the background, or `nohup`, ignores these for all child processes
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
install_import_hook("ascl_lightning", "beartype.beartype")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium or Chrome, as the system has it (a `Browser` of Playwright)."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser is installed: neither Chromium nor Chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # a container may let no process make the name spaces of a sandbox
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def without_page() -> Iterator[None]:
    """Evaluations write no page, which takes most of the time of a small one; tests/commands/test_report.py has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ascl_lightning.cli.write_report", lambda folder: folder / "report.html")
        yield
