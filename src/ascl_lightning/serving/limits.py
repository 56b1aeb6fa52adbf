"""What a request may ask for, and what the server gives to all requests together."""

from dataclasses import dataclass

MAX_K = 100
"""Hits of a search."""
MAX_TEXT = 1_000
"""Characters of a query."""
MAX_WHERE = 500
"""Characters of a filter."""
MAX_EXAMPLES = 32
"""Pictures given as examples or counterexamples."""
MAX_TEXTS = 64
"""Texts of a request to encode."""
MAX_UPLOADS = 8
"""Pictures of a request to encode."""
MAX_ID = 2**63 - 1
"""Largest id that a catalogue can hold."""


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Args:
        concurrency: Searches in progress or waiting; further ones get status 429.
        seconds: Time to read a request and to begin the answer; then status 408 or 503.
        body_bytes: Size of a request's body; larger ones get status 413.
        pixels: Size of an uploaded picture, by its header; larger ones get status 413.
        pictures: Requests for pictures in progress or waiting, likewise.
        sending_seconds: Time to send an answer; then the connection is closed.
        cache_bytes: Memory for pictures that were made smaller.
    """

    concurrency: int = 16
    seconds: float = 10.0
    body_bytes: int = 10_000_000
    pixels: int = 40_000_000
    pictures: int = 128
    sending_seconds: float = 60.0
    cache_bytes: int = 64_000_000
