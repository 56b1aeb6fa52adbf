"""A real Milvus server, which `make milvus` installs into an environment of its own."""

import atexit
import select
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[2] / ".milvus" / "bin" / "python"
SECONDS = 90
SERVE = """
import sys
from milvus import default_server
default_server.set_base_dir(sys.argv[1])
default_server.start()
print(default_server.listen_port, flush=True)
sys.stdin.read()
default_server.stop()
"""


def milvus_server() -> str:
    """Address of a server that runs until the tests end. Skips the test if none is installed."""
    if not PYTHON.is_file():
        pytest.skip("needs `make milvus`")
    port = _start()
    if port is None:
        pytest.fail(f"the Milvus server was not ready within {SECONDS} s")
    return f"http://127.0.0.1:{port}"


@cache
def _start() -> int | None:
    """The server's port."""
    folder = tempfile.mkdtemp()
    server = subprocess.Popen(
        [PYTHON, "-c", SERVE, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    def stop() -> None:
        try:
            server.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    is_ready, _, _ = select.select([server.stdout], [], [], SECONDS)
    line = server.stdout.readline() if is_ready else b""
    return int(line) if line else None
