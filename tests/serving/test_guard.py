import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ascl_lightning.serving.guard import SECURITY_HEADERS, Guard
from ascl_lightning.serving.limits import Limits
from ascl_lightning.serving.telemetry import Telemetry

App = Callable[..., Awaitable[None]]


async def ok(scope, receive, send):
    """Reads the body and answers with its size."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def stuck(scope, receive, send):
    await receive()
    await asyncio.Event().wait()


class Talk:
    """One request to a guarded application."""

    def __init__(self, guard: Guard, path: str = "/v1/search", body: Sequence[bytes] = (b"",), **headers: str) -> None:
        given = {"host": "localhost:8000"} | {name.replace("_", "-"): value for name, value in headers.items()}
        pairs = [(name.encode(), value.encode()) for name, value in given.items()]
        self.scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        self.scope |= {"headers": pairs, "client": ("127.0.0.1", 9)}
        self.guard, self.body, self.sent = guard, list(body), []

    async def receive(self) -> dict[str, Any]:
        if not self.body:
            # a client that sends no more
            await asyncio.Event().wait()
        part = self.body.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.body) or part.endswith(b"...")}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def run(self) -> int:
        await self.guard(self.scope, self.receive, self.send)
        return self.status

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


def guarded(app: App = ok, **limits: Any) -> Guard:
    return Guard(app, Limits(**limits), Telemetry(0))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("", 400),
    ],
)
def test_other_host_names_are_refused(host, status):
    assert asyncio.run(Talk(guarded(), host=host).run()) == status


def test_allowed_host_names_are_answered():
    guard = Guard(ok, Limits(), Telemetry(0), {"Photos.example"})
    assert asyncio.run(Talk(guard, host="photos.example:443").run()) == 200


@pytest.mark.parametrize("body", [[b"x" * 11], [b"x" * 6, b"x" * 5]])
def test_large_bodies_are_refused(body):
    """Whether their size is announced or not."""
    talk = Talk(guarded(body_bytes=10), body=body, content_length="11")
    assert asyncio.run(talk.run()) == 413
    with pytest.raises(Exception, match="larger than 1e-05 MB"):  # an answer in the real application
        asyncio.run(Talk(guarded(body_bytes=10), body=body).run())


def test_a_body_of_the_largest_size_is_read():
    talk = Talk(guarded(body_bytes=10), body=[b"x" * 10], content_length="10")
    assert asyncio.run(talk.run()) == 200
    assert talk.sent[1]["body"] == b"10"


def test_a_late_answer_is_refused_as_unavailable():
    talk = Talk(guarded(stuck, seconds=0.01))
    assert asyncio.run(talk.run()) == 503
    assert talk.headers["retry-after"] == "1"


def test_a_late_body_is_refused():
    assert asyncio.run(Talk(guarded(seconds=0.01), body=[b"begun..."]).run()) == 408


def test_an_answer_that_nobody_takes_is_ended():
    async def sends_without_end(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    assert asyncio.run(Talk(guarded(sends_without_end, sending_seconds=0.01)).run()) == 200


def test_requests_beyond_the_limit_are_refused_until_others_end():
    go = asyncio.Event()

    async def waits(scope, receive, send):
        await go.wait()
        await ok(scope, receive, send)

    async def talks() -> tuple[int, int, list[int], int]:
        guard = guarded(waits, concurrency=2, pictures=1)
        first = [asyncio.create_task(Talk(guard).run()) for _ in range(2)]
        await asyncio.sleep(0)
        busy = await Talk(guard).run()
        health = asyncio.create_task(Talk(guard, "/healthz").run())
        picture = asyncio.create_task(Talk(guard, "/v1/images/1").run())
        await asyncio.sleep(0)
        no_picture = await Talk(guard, "/v1/images/2").run()
        go.set()
        return busy, no_picture, await asyncio.gather(*first, health, picture), await Talk(guard).run()

    assert asyncio.run(talks()) == (429, 429, [200, 200, 200, 200], 200)


def test_every_answer_has_the_security_headers():
    for talk in (Talk(guarded()), Talk(guarded(), host="evil.example"), Talk(guarded(concurrency=0))):
        asyncio.run(talk.run())
        assert {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items() <= talk.headers.items()


def test_browsers_get_a_page_and_programs_json():
    page = Talk(guarded(concurrency=0), accept="text/html,*/*")
    asyncio.run(page.run())
    assert page.headers["content-type"].startswith("text/html")
    assert b"Too many requests" in page.sent[1]["body"]
    plain = Talk(guarded(concurrency=0))
    asyncio.run(plain.run())
    assert plain.sent[1]["body"] == b'{"detail":"Too many requests at a time: try again in a second"}'


def test_other_messages_pass():
    """The start and the end of the server."""
    seen = []

    async def note(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(guarded(note)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
