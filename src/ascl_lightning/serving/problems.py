"""Answers that say what is wrong: a page for browsers, JSON for programs."""

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response

from ascl_lightning.runtime.templates import render


def wants_page(headers: Headers) -> bool:
    """Whether a request comes from a browser's page."""
    return "text/html" in headers.get("accept", "")


def problem(headers: Headers, status: int, reason: str) -> Response:
    """An answer with the reason why a request was refused.

    Args:
        headers: Headers of the request.
        status: Status of the answer.
        reason: One sentence.
    """
    extra = {"Retry-After": "1"} if status in (429, 503) else {}
    if wants_page(headers):
        page = render("serving/problem.html.jinja", status=status, reason=reason)
        return HTMLResponse(page, status, extra)
    return JSONResponse({"detail": reason}, status, extra)
