"""Text searches through HTTP: 8 clients on loopback against the gallery itself (needs `make weights`).

The server is that of `ascl serve`, in a process of its own, with 100,000 random pictures. Each client sends the next
query when it has the answer to the last. Prints queries a second, errors, latency, the server's memory, and as a ratio
the throughput of `Gallery.search` in one process to that through HTTP.
"""

import argparse
import http.client
import json
import multiprocessing
import socket
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from synthetic_gallery import TEXT, describe, usual_retriever, write_gallery

from ascl_lightning import Gallery

CLIENTS = 8


def serve(folder: Path, door: socket.socket) -> None:
    """Runs the server until the process is ended."""
    import uvicorn

    from ascl_lightning.serving.app import create_app
    from ascl_lightning.serving.limits import Limits
    from ascl_lightning.serving.workers import Workers

    limits = Limits()
    app = create_app(Gallery.open(folder, usual_retriever()), Workers(1, limits.concurrency), limits)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[door])


def client(port: int, until: float) -> tuple[list[float], int]:
    """Milliseconds of each answer, and the number of errors."""
    connection, times, errors = http.client.HTTPConnection("127.0.0.1", port), [], 0
    body = json.dumps({"text": TEXT, "k": 10})
    while time.perf_counter() < until:
        start = time.perf_counter()
        connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        errors += answer.status != 200 or len(found["hits"]) != 10
        times.append(1e3 * (time.perf_counter() - start))
    return times, errors


def wait_until_ready(port: int) -> float:
    """Seconds until `/readyz` answers; until then, the connection waits."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    return time.perf_counter() - start


def load(port: int, seconds: float) -> tuple[list[float], int]:
    """Answers of all clients together."""
    until = time.perf_counter() + seconds
    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = list(pool.map(lambda _: client(port, until), range(CLIENTS)))
    return [time for times, _ in parts for time in times], sum(errors for _, errors in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as door:
        gallery = write_gallery(Path(folder), usual_retriever(), given.items)
        door.bind(("127.0.0.1", 0))
        door.listen()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(Path(folder), door))
        server.start()
        port = door.getsockname()[1]
        print(f"ready after {wait_until_ready(port):.1f} s")
        load(port, given.seconds / 10)
        memory = psutil.Process(server.pid).memory_info().rss
        times, errors = load(port, given.seconds)
        growth = psutil.Process(server.pid).memory_info().rss - memory
        server.terminate()
        server.join()
        through = len(times) / given.seconds
        print(f"{CLIENTS} clients, {given.seconds:.0f} s: {through:.1f} queries/s, {errors} errors, {describe(times)}")
        print(f"memory of the server: {memory >> 20:,} MiB, {growth >> 20:,} MiB more at the end")
        until, number = time.perf_counter() + given.seconds / 4, 0
        while time.perf_counter() < until:
            gallery.search(TEXT)
            number += 1
        alone = number / (given.seconds / 4)
        gallery.close()
        print(f"Gallery.search alone: {alone:.1f} queries/s\nratio: alone / HTTP {alone / through:.2f}")


if __name__ == "__main__":
    main()
