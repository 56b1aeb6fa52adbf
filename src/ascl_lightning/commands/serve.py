"""`ascl serve`: a web page and an HTTP API that search a gallery."""

import argparse
import errno
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from ascl_lightning.errors import UserError

_MAX_CONNECTIONS = 512
"""Open connections; the application does not see those that send nothing."""


def run(args: Sequence[str]) -> int:
    """Serves a gallery until the process gets SIGINT or SIGTERM, and then ends the requests in progress.

    Args:
        args: The command line, beginning with `serve`.

    Returns:
        The exit code.

    Raises:
        UserError: If there is no such gallery, its model cannot be loaded, or the address cannot be used.
    """
    given = _parser().parse_args(args[1:])
    with _bound(given.host, given.port) as door:
        # seconds of import, which --help and mistakes above do not need
        try:
            import uvicorn

            from ascl_lightning.serving.app import create_app
        except ModuleNotFoundError as error:
            raise UserError(f"ascl serve needs {error.name}: pip install 'ascl-lightning[serve]'") from error
        from ascl_lightning.gallery.gallery import Gallery
        from ascl_lightning.serving.limits import Limits
        from ascl_lightning.serving.variants import has_wordnet
        from ascl_lightning.serving.workers import Workers

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        limits = Limits(concurrency=given.concurrency, seconds=given.timeout)
        gallery, searchers = Gallery.open(given.gallery, device=given.device), Workers(1, limits.concurrency)
        app = create_app(gallery, searchers, limits, _hosts(given.host, given.allow_host), given.log_queries)
        # nobody has to wait for it at the first changed query
        Thread(target=has_wordnet, daemon=True).start()
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(limits.seconds) + 1,
        )
        door.listen()  # from now on, requests wait for the server instead of being refused
        print(f"{len(gallery):,} pictures at {_address(door)} (Ctrl-C stops)", flush=True)
        # uvicorn raises the signal that stopped it once more at its end
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            uvicorn.Server(config).run(sockets=[door])
        except KeyboardInterrupt:
            pass
        finally:
            searchers.close()
            gallery.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ascl serve",
        description="Serve a gallery that `ascl index` made: a page to search it by text and pictures, and an HTTP API "
        "(described at /docs). It is meant for one machine or a trusted network: it knows no users and no TLS.",
    )
    add = parser.add_argument
    add("--gallery", metavar="FOLDER", type=Path, required=True, help="folder of the gallery")
    add("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, this machine only")
    add("--port", type=_port, default=8000, help="port to listen on, 0 for any free one; default: 8000")
    add("--device", help="device of the model, such as cuda:0; default: a GPU if there is one")
    add(
        "--allow_host",
        metavar="NAME",
        action="append",
        default=[],
        help="name by which browsers reach the server, such as photos.example.org; may be given several times. Other "
        "names are refused, except localhost and addresses in numbers",
    )
    add("--concurrency", metavar="N", type=_positive, default=16, help="searches at a time; default: 16")
    add("--timeout", metavar="SECONDS", type=_seconds, default=10.0, help="time for an answer; default: 10")
    add("--log_queries", action="store_true", help="also log what people search for")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _port(text: str) -> int:
    if not 0 <= (number := int(text)) < 1 << 16:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    if not 0 < (number := float(text)) <= 3600:
        raise ValueError
    return number


def _hosts(host: str, allowed: Sequence[str]) -> set[str]:
    """Names by which the server may be addressed."""
    from ascl_lightning.serving.guard import LOCAL

    return {*LOCAL, host, *allowed}


def _address(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound but does not listen: nobody connects before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        advice = "give another --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "check --host"
        raise UserError(f"cannot listen on {host}, port {port}: {error.strerror}; {advice}") from error
    return door
