"""What the server tells about itself: metrics for Prometheus, and a log of requests."""

import logging
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ACCESS_LOG = "ascl_lightning.serving.access"


class Telemetry:
    """Counts and logs requests.

    Args:
        num_pictures: Size of the gallery.
        log_queries: Whether the log shows the query part of addresses, which holds what people search for.
    """

    def __init__(self, num_pictures: int, log_queries: bool = False) -> None:
        self._log, self._log_queries = logging.getLogger(ACCESS_LOG), log_queries
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("ascl_requests", "Answered requests.", labels, registry=self._registry)
        self._seconds = Histogram("ascl_request_seconds", "Time of requests.", ("route",), registry=self._registry)
        self.in_progress = Gauge("ascl_requests_in_progress", "Requests in progress.", registry=self._registry)
        Gauge("ascl_gallery_pictures", "Pictures in the gallery.", registry=self._registry).set(num_pictures)

    def record(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        """Counts and logs a request.

        Args:
            scope: The request (ASGI).
            status: Status of the answer; 499 if the client left before it.
            seconds: Time from the request to the end of the answer.
        """
        # paths and methods are chosen by clients, and each new label value would take memory
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if route != "other" else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        # percent-encoded, so that an address cannot write lines of its own into the log
        address = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
        if self._log_queries and scope["query_string"]:
            address += "?" + scope["query_string"].decode("ascii", "backslashreplace")
        client = scope["client"][0] if scope.get("client") else "-"
        self._log.info("%s %s %s %d %.0f ms", client, scope["method"], address, status, 1000 * seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
