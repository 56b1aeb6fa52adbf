"""`ascl serve`: flags, messages, a served gallery, and the end of the server."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.helpers.galleries import write_pictures
from tests.helpers.retrievers import small

from ascl_lightning.__main__ import main
from ascl_lightning.commands import serve
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.gallery import Gallery
from ascl_lightning.serving.app import create_app
from ascl_lightning.serving.workers import Workers

RUN = Path(__file__).parents[1] / "fixtures" / "run_0_1"
MODEL = ["--ckpt_path", str(RUN / "last.ckpt"), "--config", str(RUN / "config.yaml"), "--device", "cpu"]


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from ascl_lightning.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'fastapi', 'uvicorn', 'PIL', 'numpy') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_taken_port_is_said_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1, port {port}: .*give another --port"):
            serve.run(["serve", "--gallery", str(tmp_path), "--port", str(port)])


def test_an_unknown_host_is_said(tmp_path):
    with pytest.raises(UserError, match="check --host"):
        serve.run(["serve", "--gallery", str(tmp_path), "--host", "999.1.1.1", "--port", "0"])


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn: pip install 'ascl-lightning\[serve\]'"):
        serve.run(["serve", "--gallery", str(tmp_path), "--port", "0"])


def test_a_folder_that_is_no_gallery_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a gallery"):
        serve.run(["serve", "--gallery", str(tmp_path), "--port", "0"])


@pytest.mark.parametrize(
    "flags",
    [["--port", "65536"], ["--port", "x"], ["--concurrency", "0"], ["--timeout", "0"], ["--timeout", "nan"], []],
)
def test_wrong_flags_end_with_code_2(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        serve.run(["serve", *(["--gallery", "g", *flags] if flags else [])])
    assert stop.value.code == 2


def test_an_indexed_folder_is_served(tmp_path):
    names = [f"{number}.png" for number in range(4)]
    write_pictures(tmp_path / "images", names, {"1.png": ["a red kite", "a kite"], "2.png": ["two dogs"]})
    gallery = Gallery.index(tmp_path / "images", tmp_path / "gallery", small())
    client = TestClient(create_app(gallery, Workers(1, 4)), base_url="http://localhost")

    def found(**request) -> list[tuple[int, float]]:
        return [(hit["id"], hit["score"]) for hit in client.post("/v1/search", json=request).json()["hits"]]

    asked = gallery.search("a red kite", like=[1], unlike=[2, "two dogs"], where="id < 3", k=2)
    answer = found(text="a red kite", like=[1], unlike=[2], unlike_text="two dogs", where="id < 3", k=2)
    assert answer == [(hit.id, pytest.approx(hit.score)) for hit in asked.hits]
    best = found(image_id=3)[0]
    assert best == (3, pytest.approx(1, abs=1e-3))
    assert client.get("/v1/images/3/thumbnail").headers["content-type"] == "image/jpeg"
    assert client.get("/v1/images/4").status_code == 404
    page = client.get("/?text=a+red+kite&where=id<3").text
    assert page.count('class="hit"') == 3
    assert page.count('class="shade s1"') == 3
    upload = client.post("/", files={"image": (tmp_path / "images" / "1.png").read_bytes()}).text
    assert set(re.findall(r'text=([a-z+]+)">', upload)) == {"a+red+kite", "a+kite", "two+dogs"}
    wrong = client.post("/v1/search", json={"text": "a kite", "where": "colour = 3"})
    assert (wrong.status_code, "colour" in wrong.json()["detail"]) == (400, True)


@pytest.mark.slow
def test_a_request_in_progress_is_answered_before_the_server_ends(tmp_path):
    write_pictures(tmp_path / "images", ["a.png", "b.png"])
    main(["index", *MODEL, "--images", str(tmp_path / "images"), "--out", str(tmp_path / "gallery")])
    command = ["-m", "ascl_lightning", "serve", "--gallery", str(tmp_path / "gallery"), "--port", "0"]
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.fullmatch(r"2 pictures at (http://127.0.0.1:\d+/) \(Ctrl-C stops\)\n", server.stdout.readline())[1]
        assert urllib.request.urlopen(address + "readyz").read() == b"ready\n"
        with socket.create_connection(("127.0.0.1", int(address.split(":")[-1].strip("/")))) as slow:
            head = (
                "POST /v1/encode HTTP/1.1",
                "Host: localhost",
                "Content-Type: application/json",
                "Content-Length: 15",
            )
            slow.sendall("\r\n".join((*head, "", '{"texts"')).encode())
            in_progress = "ascl_requests_in_progress 2.0"
            while in_progress not in urllib.request.urlopen(address + "metrics").read().decode():
                pass
            server.send_signal(signal.SIGTERM)
            slow.sendall(b':["a"]}')
            assert slow.recv(100).startswith(b"HTTP/1.1 200 OK")
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
        assert re.search(r"127.0.0.1 POST /v1/encode 200 \d+ ms", log)
    finally:
        server.kill()
