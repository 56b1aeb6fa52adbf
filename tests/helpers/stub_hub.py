"""A model hub on the loopback address: the few requests with which `huggingface_hub` uploads and downloads."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import huggingface_hub
import pytest

COMMIT = "c" * 40


class StubHub(ThreadingHTTPServer):
    """Keeps the files of repositories in memory, all in one commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.served: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StubHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)) if "Content-Length" in self.headers else b""
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self._json({"url": f"{self.server.address}/{name}", "id": name, "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
            )
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"commitUrl": f"{self.server.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._answer(404, b"")

    def _get(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/":
            self._answer(200, b"")
        elif path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            files = self.server.files.get(name)
            if files is None:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif "/tree/" in path:
                self._json(
                    [
                        {"type": "file", "path": file, "size": len(content), "oid": _etag(content)}
                        for file, content in files.items()
                    ]
                )
            else:
                self._json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        else:
            self._file(*path.removeprefix("/").split(f"/resolve/{COMMIT}/"))

    def _file(self, name: str, file: str) -> None:
        self.server.served.append(file)
        content = self.server.files[name][file]
        self._answer(200, content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def stub_hub(cache: str) -> Iterator[StubHub]:
    """A hub that `huggingface_hub` uses within the context, with an empty cache and a token.

    Args:
        cache: Folder for downloads.
    """
    constants = huggingface_hub.constants
    with StubHub() as hub, pytest.MonkeyPatch.context() as patch:
        thread = Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", cache)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", "hf_test")
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.address)
        try:
            yield hub
        finally:
            hub.shutdown()
