import http.server
import json
import pickle
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest
from tests.helpers.datasets import write_picture
from tests.helpers.layouts import add_member, write_shards

from ascl_lightning.data.sources import WebDataset
from ascl_lightning.data.sources.webdataset import TarShard, expand_braces
from ascl_lightning.errors import UserError

CONTENT = {"train": [(f"{i}.png", (f"caption {i}",)) for i in range(5)]}


def picture(root: Path, index: int = 0) -> bytes:
    write_picture(root / "p.png", index)
    return (root / "p.png").read_bytes()


def archive(path: Path, **members: bytes) -> WebDataset:
    with tarfile.open(path, "w") as opened:
        for name, data in members.items():
            add_member(opened, name.replace("__", "."), data)
    return WebDataset({"train": path.name})


def test_braces() -> None:
    assert expand_braces("a.tar") == ["a.tar"]
    assert expand_braces("{0..2}/{x,yy}.tar") == [f"{i}/{name}.tar" for i in range(3) for name in ("x", "yy")]
    assert expand_braces("{0098..0101}") == ["0098", "0099", "0100", "0101"]


def test_captions_of_text_and_json(tmp_path: Path) -> None:
    data = picture(tmp_path)
    source = archive(tmp_path / "a.tar", **{"x__png": data, "x__txt": b"one\n\n two \n", "y__png": data})
    assert list(source.read(tmp_path, "train").captions) == [("one", "two"), ()]
    members = {
        "x__json": b'{"caption": "single", "sha": 3}',
        "x__jpg": data,
        "sub/y__z__json": b'{"captions": ["a", "b"]}',
    }
    archive(tmp_path / "b.tar", **members, **{"sub/y__jpg": data, "only__json": b'{"caption": "no picture"}'})
    split = WebDataset({"train": "b.tar"}, captions="json").read(tmp_path, "train")
    # the second dot belongs to the ending: y.z.json is not y.json
    assert dict(zip(split.image_ids, split.captions, strict=True)) == {"x": ("single",), "sub/y": ()}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x__png": b"", "x__txt": b"a"}, r"holds no pictures"),
        ({"x__png": b"p", "x__txt": b"a \xff"}, r"a\.tar, x\.txt: not UTF-8 text \(byte 0xff\)"),
        (
            {"x__png": b"p", "x__txt": b"a", "y__png": b"p", "z__png": b"p", "x__jpg": b"p"},
            "field '__key__' repeats the image 'x'",
        ),
        ({"x__txt": b"a"}, "holds no pictures"),
    ],
)
def test_faults_are_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(UserError, match=message):
        archive(tmp_path / "a.tar", **members).read(tmp_path, "train")


@pytest.mark.parametrize("text", [b"[1]", b"{", b'{"caption": 3}', b'{"captions": "x"}', b"{}"])
def test_faults_of_json_are_named(tmp_path: Path, text: bytes) -> None:
    archive(tmp_path / "a.tar", x__png=b"p", x__json=text)
    with pytest.raises(UserError, match=r"a\.tar, x\.json"):
        WebDataset({"train": "a.tar"}, captions="json").read(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\x1f\x8b" + b"0" * 600])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tar: (not a readable tar|holds no pictures)"):
        WebDataset({"train": "a.tar"}).read(tmp_path, "train")


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    """Wherever it was cut: in a header, in a picture, between two members."""
    source = write_shards(tmp_path, CONTENT, per_shard=5)
    path = tmp_path / "train-000000.tar"
    whole = path.read_bytes()
    end = whole.rindex(b"ustar") + 512
    for size in range(100, end, 337):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"train-000000\.tar"):
            source.read(tmp_path, "train")


def test_there_are_no_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no shards no-\*\.tar"):
        WebDataset({"train": "no-*.tar"}).read(tmp_path, "train")
    with pytest.raises(UserError, match="there is no split 'val'; they are given for: train"):
        WebDataset({"train": "no-*.tar"}).read(tmp_path, "val")


@pytest.mark.parametrize("name", ["pipe:touch canary", "file:///etc/passwd", "s3://bucket/a.tar", "ftp://x/a.tar"])
def test_nothing_but_files_and_http_is_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing else is opened"):
        WebDataset({"train": name}, streaming=True)
    assert not (tmp_path / "canary").exists()


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def test_pickles_are_not_run_and_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.png").write_bytes(picture(tmp_path, 7))
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "a.tar", "w") as opened:
        add_member(opened, "x.png", picture(tmp_path))
        for ending in ("pyd", "pickle", "pkl", "pth", "npy"):
            add_member(opened, f"x.{ending}", pickle.dumps(Payload()))
        for kind, name in ((tarfile.SYMTYPE, "sym.png"), (tarfile.LNKTYPE, "hard.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret / "s.png")
            opened.addfile(link)
        add_member(opened, "../escape.png", picture(tmp_path))
        add_member(opened, "/absolute.png", picture(tmp_path))
    split = WebDataset({"train": "a.tar"}).read(root, "train")
    assert split.image_ids == ["x", "../escape", "/absolute"]
    assert all(split.images[row].data == picture(tmp_path) for row in range(3))
    assert not (tmp_path / "canary").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "p.png", "root", "s.png", "secret"]


class Broken(http.server.SimpleHTTPRequestHandler):
    """Breaks the connection half-way for as many requests as `failures` says."""

    failures = 0

    def do_GET(self):
        if Broken.failures > 0:
            Broken.failures -= 1
            data = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path: Path):
    handler = partial(Broken, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_address[1]}"
        opened.shutdown()


def test_archives_on_a_network_are_streamed(tmp_path: Path, server: str) -> None:
    local = write_shards(tmp_path, CONTENT, per_shard=3)
    remote = WebDataset({"train": f"{server}/train-{{000000..000001}}.tar"}, "json", streaming=True)
    found = [item for shard in remote.shards(None, "train") for item in shard.items(0)]
    split = local.read(tmp_path, "train")
    assert [captions for captions, _ in found] == list(split.captions)
    assert [image.data for _, image in found] == [split.images[row].data for row in range(5)]
    assert [captions for captions, _ in remote.shards(None, "train")[0].items(1)] == [("caption 1",), ("caption 2",)]
    with pytest.raises(UserError, match="download the shards of 'train'"):
        remote.read(None, "train")
    with pytest.raises(UserError, match="cannot be opened"):
        list(TarShard(f"{server}/gone.tar", "json").items(0))


def test_a_broken_connection_is_retried(tmp_path: Path, server: str) -> None:
    write_shards(tmp_path, {"train": [(f"{i}.png", (f"{i} " + "long " * 2000,)) for i in range(8)]}, per_shard=8)
    shard = TarShard(f"{server}/train-000000.tar", "json")
    Broken.failures = 2
    assert [captions[0].split()[0] for captions, _ in shard.items(0)] == [str(i) for i in range(8)]
    Broken.failures = 3
    with pytest.raises(UserError, match="the connection broke 3 times"):
        list(shard.items(0))


def test_a_huge_member_is_refused_by_its_header(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x.txt")
    member.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + json.dumps({}).encode())
    with pytest.raises(UserError, match=r"x\.txt: has 1,099,511,627,776 bytes"):
        WebDataset({"train": "a.tar"}).read(tmp_path, "train")
