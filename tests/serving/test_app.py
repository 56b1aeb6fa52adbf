import io
import logging
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.helpers.served_galleries import CAPTIONS, FIRST, DrawnGallery, draw

from ascl_lightning.serving.app import create_app
from ascl_lightning.serving.limits import MAX_K, MAX_TEXT, Limits
from ascl_lightning.serving.telemetry import ACCESS_LOG
from ascl_lightning.serving.words import MAX_WORDS
from ascl_lightning.serving.workers import Workers


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> DrawnGallery:
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder)
    return DrawnGallery(folder)


@pytest.fixture(autouse=True)
def without_wordnet(monkeypatch):
    """NLTK takes seconds to import."""
    monkeypatch.setattr("ascl_lightning.serving.variants.has_wordnet", lambda: False)


def client_of(gallery: DrawnGallery, log_queries: bool = False, **limits) -> TestClient:
    app = create_app(gallery, Workers(1, 4), Limits(**limits), log_queries=log_queries)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture(scope="module")
def client(gallery) -> TestClient:
    return client_of(gallery)


def png(colour: str = "blue", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def search(client: TestClient, **request):
    return client.post("/v1/search", json=request)


def pictures_of(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'id="hit-(\d+)"', page)]


class TestSearch:
    def test_by_text(self, client):
        found = search(client, text="a blue box", k=3).json()
        assert found["hits"][0] == {
            "id": FIRST + CAPTIONS.index("a blue box"),
            "path": "5.jpg",
            "score": 1.0,
            "scores": {"independent": 0.5, "fused": 1.0},
            "fields": {"caption": "a blue box", "width": 96, "height": 64},
            "image": "/v1/images/12",
            "thumbnail": "/v1/images/12/thumbnail",
        }
        assert len(found["hits"]) == 3

    def test_everything_reaches_the_gallery(self, client, gallery):
        asked = {"text": "kite", "like": [7, 8], "unlike": [9], "unlike_text": "a box", "where": "year>2000", "k": 2}
        search(client, **asked, text_weight=0.25, image_id=10)
        assert gallery.asked[-1] == {
            "text": "kite",
            "image": gallery.image_path(10),
            "text_weight": 0.25,
            "like": [7, 8],
            "unlike": [9, "a box"],
            "where": "year>2000",
            "k": 2,
        }

    def test_by_an_upload_with_words(self, client, gallery):
        fields = {"text": "kite", "like": ["7", "8"], "k": "2"}
        found = client.post("/v1/search", data=fields, files={"image": ("../../etc/passwd", png())}).json()
        assert {CAPTIONS[hit["id"] - FIRST].split()[1] for hit in found["hits"]} == {"blue"}
        asked = gallery.asked[-1]
        assert (asked["image"].size, asked["text"], asked["like"], asked["k"]) == ((40, 30), "kite", [7, 8], 2)

    def test_words_without_support_and_reasons_are_told(self, client):
        assert search(client, text="red umbrella").json()["unsupported"] == ["umbrella"]
        assert search(client, text="red", where="year>3000").json() == {
            "hits": [],
            "unsupported": [],
            "reason": "none of the 12 pictures fulfils --where 'year>3000'",
        }

    @pytest.mark.parametrize(
        ("asked", "status", "says"),
        [
            ({}, 422, "give a text, a picture or examples"),
            ({"text": "  "}, 422, "text"),
            ({"text": "x" * (MAX_TEXT + 1)}, 422, "text: String should have at most"),
            ({"text": "a", "k": 0}, 422, "k: Input"),
            ({"text": "a", "k": MAX_K + 1}, 422, "k: Input"),
            ({"text": "a", "k": 1e99}, 422, "k: Unable"),
            ({"text": "a", "text_weight": 1.5}, 422, "text_weight"),
            ({"text": "a", "like": list(range(33))}, 422, "like: List"),
            ({"text": "a", "like": [-1]}, 422, "like.0"),
            ({"text": "a", "like": ["../secret"]}, 422, "like.0"),
            ({"image_id": 2**63}, 422, "image_id"),
            ({"image_id": FIRST + len(CAPTIONS)}, 404, "no such picture"),
            ({"text": "a", "where": "no filter"}, 400, "expected a comparison"),
            ({"text": "a", "image": "http://example.org/a.png"}, 422, "image: Extra inputs"),
        ],
    )
    def test_what_cannot_be_asked_is_refused_in_one_line(self, client, asked, status, says):
        answer = search(client, **asked)
        assert answer.status_code == status
        assert says in answer.json()["detail"]
        assert "\n" not in answer.json()["detail"]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff\xfe", b'{"text": "\\ud800"}', b"[" * 100_000])
    def test_malformed_json_is_refused(self, client, body):
        assert client.post("/v1/search", content=body, headers={"content-type": "application/json"}).status_code == 422

    @pytest.mark.parametrize(
        "kind", ["", "text/plain", "application/xml", "multipart/form-data", "multipart/form-data; boundary=x"]
    )
    def test_other_bodies_are_refused(self, client, kind):
        answer = client.post("/v1/search", content=b"text=kite", headers={"content-type": kind})
        assert answer.status_code in (400, 415, 422)

    def test_uploads_that_are_no_pictures_are_refused(self, client):
        for data in (b"GIF89a", b"<svg onload=alert(1)>", png()[:50], b"%!PS-Adobe"):
            answer = client.post("/v1/search", files={"image": ("a.png", data)})
            assert (answer.status_code, "the uploaded file" in answer.json()["detail"]) == (400, True)

    def test_uploads_with_too_many_pixels_are_refused_by_their_header(self, gallery):
        answer = client_of(gallery, pixels=1000).post("/v1/search", files={"image": ("a.png", png())})
        assert (answer.status_code, "more than 1,000 pixels" in answer.json()["detail"]) == (413, True)

    def test_large_bodies_are_refused(self, gallery):
        small = client_of(gallery, body_bytes=1000)
        assert small.post("/v1/search", files={"image": ("a.png", b"x" * 2000)}).status_code == 413
        # without an announced length
        parts = client_of(gallery, body_bytes=1000).post("/v1/search", content=iter([b"x" * 600] * 2))
        assert parts.status_code in (413, 415)
        json_parts = small.post(
            "/v1/search", content=iter([b" " * 600] * 2), headers={"content-type": "application/json"}
        )
        assert json_parts.status_code == 413

    def test_more_than_one_upload_or_many_fields_are_refused(self, client):
        assert client.post("/v1/search", files=[("image", png()), ("image", png())]).status_code == 400
        assert client.post("/v1/search", files={"other": png()}).status_code == 422
        fields = {f"field{number}": "x" for number in range(200)}
        assert client.post("/v1/search", data=fields, files={"image": png()}).status_code == 400

    def test_slow_and_concurrent_searches(self, gallery, monkeypatch):
        """The gallery is stuck: the first request is late, others find no place; afterwards everything works."""
        go = threading.Event()
        original = gallery.search
        monkeypatch.setattr(gallery, "search", lambda *args, **kwargs: go.wait() and original(*args, **kwargs))
        app = create_app(gallery, Workers(1, 1), Limits(seconds=0.05))
        client = TestClient(app, base_url="http://localhost")
        assert search(client, text="kite").status_code == 503
        assert search(client, text="kite").status_code == 429
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        go.set()
        while client.get("/readyz").status_code == 503:
            pass
        assert search(client, text="a red kite").json()["hits"][0]["id"] == FIRST

    def test_an_unexpected_error_is_not_shown(self, gallery, monkeypatch):
        def fail(*args, **kwargs):
            raise RuntimeError("/secret/path")

        monkeypatch.setattr(gallery, "search", fail)
        answer = search(client_of(gallery), text="kite")
        assert (answer.status_code, answer.json()) == (500, {"detail": "The server failed; its log says why"})


class TestEncode:
    def test_texts(self, client, gallery):
        answer = client.post("/v1/encode", json={"texts": ["a red kite", "two dogs"]}).json()
        expected = gallery.retriever.encode_texts(["a red kite", "two dogs"]).numpy()
        np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-6)
        assert answer["model"] == gallery.retriever.fingerprint

    def test_pictures(self, client, gallery):
        files = [("image", ("a.png", png("red"))), ("image", ("b.png", png("green")))]
        answer = client.post("/v1/encode", files=files).json()
        expected = gallery.retriever.encode_images([Image.new("RGB", (40, 30), colour) for colour in ("red", "green")])
        np.testing.assert_allclose(answer["embeddings"], expected.numpy(), atol=1e-6)

    def test_nothing_and_too_much_is_refused(self, client):
        assert client.post("/v1/encode", json={"texts": []}).status_code == 422
        assert client.post("/v1/encode", json={"texts": ["a"] * 65}).status_code == 422
        assert client.post("/v1/encode", data={"a": "b"}).status_code == 422
        assert client.post("/v1/encode", files=[("image", png())] * 9).status_code == 400


def test_variants_say_how_pictures_move(client):
    """Of "a red kite" the drawn gallery finds the red kite, then the other red or kite pictures in their order."""
    answer = client.post("/v1/variants", json={"text": "a red kite", "k": 3}).json()["variants"]
    (less,) = [variant for variant in answer if variant["text"] == "a kite"]
    # red kite, blue kite, green kite; before: red kite, red ball, red box
    moved = [(hit["id"] - FIRST, hit["before"]) for hit in less["hits"]]
    assert moved == [(0, 1), (3, None), (6, None)]
    assert (less["kind"], less["kept"]) == ("dropped", 1)


class TestPictures:
    def test_thumbnails_and_pictures_are_jpeg(self, client):
        for path in (f"/v1/images/{FIRST}", f"/v1/images/{FIRST}/thumbnail"):
            answer = client.get(path)
            assert answer.headers["content-type"] == "image/jpeg"
            assert Image.open(io.BytesIO(answer.content)).size == (64, 96)
            again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")

    @pytest.mark.parametrize(
        "path",
        [
            f"/v1/images/{FIRST + len(CAPTIONS)}",
            "/v1/images/0.jpg",
            "/v1/images/-1",
            "/v1/images/9223372036854775808",
            "/v1/images/..%2f..%2fetc%2fpasswd",
            "/v1/images/../../etc/passwd",
            "/static/../app.py",
            "/static/..%2fapp.py",
            "/static/%2e%2e/app.py",
            "/static//etc/passwd",
            "/static/app.py",
        ],
    )
    def test_only_ids_and_known_names_are_served(self, client, path):
        answer = client.get(path)
        assert answer.status_code in (404, 422)
        assert "detail" in answer.json()

    def test_a_missing_file_is_said(self, tmp_path):
        draw(tmp_path)
        client = client_of(DrawnGallery(tmp_path))
        (tmp_path / "0.jpg").unlink()
        answer = client.get(f"/v1/images/{FIRST}")
        assert (answer.status_code, "index the folder again" in answer.json()["detail"]) == (404, True)


class TestPage:
    """Without JavaScript."""

    def test_the_form_leads_to_an_address_with_the_search(self, client):
        answer = client.post("/", data={"text": "a red kite", "k": "24", "where": ""}, files={"image": ("", b"")})
        assert (answer.status_code, answer.headers["location"]) == (303, "/?text=a+red+kite&k=24")

    def test_results(self, client):
        page = client.get("/?text=a+green+ball").text
        assert pictures_of(page)[0] == FIRST + CAPTIONS.index("a green ball")
        assert len(pictures_of(page)) == 12
        assert "12 pictures for “a green ball”." in page
        # each word of the query, and where it looks in each picture
        assert page.count('class="shade s1"') == 12

    def test_an_upload_shows_itself_similar_pictures_and_captions(self, client):
        page = client.post("/", data={"k": "3"}, files={"image": ("mine.png", png("yellow"))}).text
        assert {CAPTIONS[number - FIRST].split()[1] for number in pictures_of(page)} == {"yellow"}
        assert "data:image/webp" in page
        assert re.search(r'<ol class="captions">\s*<li><a href="/\?text=a\+yellow', page)

    def test_changed_queries_are_shown_if_asked_for(self, client):
        assert "Says less" not in client.get("/?text=a+red+kite").text
        page = client.get("/?text=a+red+kite&variants=1&change=a+blue+box").text
        assert [title in page for title in ("Your change", "Says less", "Says something else", "Says more")] == [
            True
        ] * 4

    def test_marks_go_into_the_address(self, client, gallery):
        page = client.get("/?text=kite&like=8&unlike=9").text
        assert f"/?text=kite&amp;like=8&amp;like={FIRST}&amp;unlike=9" in page
        assert (gallery.asked[-1]["like"], gallery.asked[-1]["unlike"]) == ([8], [9])

    @pytest.mark.parametrize(
        ("address", "status", "says"),
        [
            ("/?text=a&where=no+filter", 400, "expected a comparison"),
            ("/?text=a&k=1000", 422, "k: Input"),
            ("/?image_id=99", 404, "no such picture"),
            ("/nothing", 404, "Not Found"),
        ],
    )
    def test_mistakes_are_shown_on_a_page(self, client, address, status, says):
        answer = client.get(address, headers={"accept": "text/html"})
        assert (answer.status_code, says in answer.text, "<html" in answer.text) == (status, True, True)

    def test_what_was_asked_is_escaped(self, client):
        page = client.get("/", params={"text": "<script>alert(1)</script>", "where": '"><b>'}).text
        assert "<script>alert" not in page
        assert '"><b>' not in page

    def test_foreign_fields_in_the_address_are_ignored(self, client):
        assert client.get("/?text=kite&utm_source=x").status_code == 200


class TestStatus:
    def test_health_and_readiness(self, client):
        assert [client.get(path).text for path in ("/healthz", "/readyz")] == ["ok\n", "ready\n"]

    def test_metrics_count_routes_and_not_addresses(self, gallery):
        client = client_of(gallery)
        for path in ("/v1/images/7", "/v1/images/8", "/nothing/1", "/nothing/2"):
            client.get(path)
        text = client.get("/metrics").text
        assert 'ascl_requests_total{method="GET",route="/v1/images/{id}",status="200"} 2.0' in text
        assert 'ascl_requests_total{method="other",route="other",status="404"} 2.0' in text
        assert "ascl_gallery_pictures 12.0" in text

    @pytest.mark.parametrize(("log_queries", "shown"), [(False, "GET / 200"), (True, "GET /?text=secret%0Akite 200")])
    def test_the_log_shows_queries_only_if_asked_to(self, gallery, caplog, log_queries, shown):
        with caplog.at_level(logging.INFO, ACCESS_LOG):
            client_of(gallery, log_queries).get("/?text=secret%0Akite")
        (line,) = [record.getMessage() for record in caplog.records if record.name == ACCESS_LOG]
        assert shown in line
        assert ("secret" in line) == log_queries

    def test_the_api_describes_itself_without_foreign_assets(self, client):
        described = client.get("/openapi.json").json()
        assert set(described["paths"]) == {
            *("/healthz", "/readyz", "/metrics", "/v1/search", "/v1/variants", "/v1/encode"),
            *("/v1/images/{id}", "/v1/images/{id}/thumbnail"),
        }
        bodies = described["paths"]["/v1/search"]["post"]["requestBody"]["content"]
        assert set(bodies) == {"application/json", "multipart/form-data"}
        page = client.get("/docs").text
        assert all(path in page for path in described["paths"])
        assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == {
            *("/static/icon.svg", "/static/page.css", "/openapi.json", "/")
        }


def test_the_page_asks_other_hosts_for_nothing():
    folder = Path(__file__).parents[2] / "src" / "ascl_lightning" / "serving"
    for file in [*folder.glob("*.jinja"), *folder.glob("static/*")]:
        foreign = set(re.findall(r"https?://[^\s\"'<>]+", file.read_text(encoding="utf-8")))
        assert foreign <= {"http://www.w3.org/2000/svg"}, file


def test_style_rules_exist_for_every_word():
    folder = Path(__file__).parents[2] / "src" / "ascl_lightning" / "serving"
    style = (folder / "static" / "page.css").read_text(encoding="utf-8")
    assert {int(number) for number in re.findall(r"\.s(\d+)", style)} == set(range(MAX_WORDS))
