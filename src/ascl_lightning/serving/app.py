"""The web application: its routes."""

from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ascl_lightning import __version__
from ascl_lightning.data.images import HugeImageError
from ascl_lightning.errors import UserError
from ascl_lightning.gallery.gallery import Gallery
from ascl_lightning.serving.guard import LOCAL, Guard
from ascl_lightning.serving.limits import MAX_ID, MAX_UPLOADS, Limits
from ascl_lightning.serving.messages import (
    EncodeRequest,
    EncodeResponse,
    HitMessage,
    PageRequest,
    Problem,
    SearchRequest,
    SearchResponse,
    VariantsRequest,
    VariantsResponse,
    from_form,
    in_one_line,
)
from ascl_lightning.serving.page import address, reference_page, search_page
from ascl_lightning.serving.pictures import PICTURE_SIDE, THUMBNAIL_SIDE
from ascl_lightning.serving.problems import problem
from ascl_lightning.serving.service import NoPictureError, NothingAskedError, Service
from ascl_lightning.serving.telemetry import Telemetry
from ascl_lightning.serving.workers import BusyError, Workers

PictureId = Annotated[int, Path(ge=0, le=MAX_ID)]
_STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 404, 408, 413, 415, 422, 429, 503)
}
_DECODERS = 2
"""Threads that make pictures smaller; each may take 200 megabytes."""

_MAX_FIELDS = 100


def create_app(
    gallery: Gallery,
    searchers: Workers,
    limits: Limits | None = None,
    hosts: Collection[str] = LOCAL,
    log_queries: bool = False,
) -> ASGIApp:
    """The application for a gallery.

    Args:
        gallery: The gallery.
        searchers: Threads that call it.
        limits: Limits of requests; None for the defaults.
        hosts: See `Guard`.
        log_queries: Whether the log of requests shows what people search for.

    Returns:
        An ASGI application.
    """
    limits = limits or Limits()
    telemetry = Telemetry(len(gallery), log_queries)
    app = FastAPI(
        title="ascl-lightning",
        version=__version__,
        summary="Search pictures by texts and pictures.",
        docs_url=None,
        redoc_url=None,
    )
    service, decoders = Service(gallery, limits), Workers(_DECODERS, limits.pictures)
    _add_problems(app)
    _add_status(app, searchers, telemetry)
    _add_static(app)
    _add_page(app, service, searchers)
    _add_search(app, service, searchers)
    _add_pictures(app, service, decoders)
    return Guard(app, limits, telemetry, hosts)


def _add_problems(app: FastAPI) -> None:
    reasons: dict[type[Exception], Callable[[Any], tuple[int, str]]] = {
        HTTPException: lambda error: (error.status_code, str(error.detail)),
        ValidationError: lambda error: (422, in_one_line(error)),
        NothingAskedError: lambda error: (422, f"Nothing to search by: {error}"),
        NoPictureError: lambda _: (404, "The gallery has no such picture"),
        FileNotFoundError: lambda _: (404, "The file of this picture is missing: index the folder again"),
        HugeImageError: lambda error: (413, str(error)),
        UserError: lambda error: (400, str(error)),
        BusyError: lambda _: (429, "Too many requests at a time: try again in a second"),
        Exception: lambda _: (500, "The server failed; its log says why"),
    }
    for kind, reason in reasons.items():

        def answer(request: Request, error: Exception, reason: Any = reason) -> Response:
            return problem(request.headers, *reason(error))

        app.add_exception_handler(kind, answer)


def _add_status(app: FastAPI, searchers: Workers, telemetry: Telemetry) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the process answers")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Whether searches are accepted")
    async def readyz() -> Response:
        return PlainTextResponse("ready\n") if searchers.has_room else PlainTextResponse("busy\n", 503)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return PlainTextResponse(telemetry.exposition(), media_type="text/plain; version=0.0.4")


def _add_static(app: FastAPI) -> None:
    folder = files("ascl_lightning.serving") / "static"
    assets = {name: (folder / name).read_bytes() for name in _STATIC}

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, "There is no such file")
        return Response(assets[name], media_type=_STATIC[name], headers={"Cache-Control": "max-age=300"})

    @app.get("/docs", include_in_schema=False)
    async def reference() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))


def _add_page(app: FastAPI, service: Service, searchers: Workers) -> None:
    async def shown(request: PageRequest, upload: bytes | None = None) -> HTMLResponse:
        """The page with results, or with the reason why there are none."""
        size = len(service.gallery)
        try:
            found = await searchers.run(lambda: service.find(request, upload))
        except NothingAskedError:
            return HTMLResponse(search_page(request, size))
        except UserError as error:
            status = 413 if isinstance(error, HugeImageError) else 400
            return HTMLResponse(search_page(request, size, wrong=str(error)), status)
        return HTMLResponse(search_page(request, size, found, crop=service.crop))

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        asked = request.query_params.multi_items()
        try:
            return await shown(_page_request(asked))
        except ValidationError as error:
            return HTMLResponse(search_page(PageRequest(), len(service.gallery), wrong=in_one_line(error)), 422)

    @app.post("/", include_in_schema=False)
    async def submit(request: Request) -> Response:
        fields, uploads = await _form(request, 1)
        asked = _page_request(fields)
        # without an upload, the results have an address of their own
        return await shown(asked, uploads[0]) if uploads else RedirectResponse(address(asked), 303)


def _add_search(app: FastAPI, service: Service, searchers: Workers) -> None:
    @app.post(
        "/v1/search",
        summary="Search by a text, by pictures, or both",
        responses=_REFUSALS,
        openapi_extra=_body(SearchRequest, "image", one=True),
    )
    async def search(request: Request) -> SearchResponse:
        uploads: list[bytes] = []
        if _is_json(request):
            asked = SearchRequest.model_validate_json(await request.body())
        else:
            fields, uploads = await _form(request, 1)
            asked = from_form(fields, SearchRequest)
        results = await searchers.run(lambda: service.search(asked, next(iter(uploads), None)))
        hits = [
            HitMessage(
                id=hit.id,
                path=hit.path,
                score=hit.score,
                scores=dict(hit.scores),
                fields=dict(hit.fields),
                image=f"/v1/images/{hit.id}",
                thumbnail=f"/v1/images/{hit.id}/thumbnail",
            )
            for hit in results.hits
        ]
        return SearchResponse(hits=hits, unsupported=results.unsupported, reason=results.reason)

    @app.post("/v1/variants", summary="Search for changed versions of a query", responses=_REFUSALS)
    async def variants(asked: VariantsRequest) -> VariantsResponse:
        request = SearchRequest(**asked.model_dump())
        return VariantsResponse(variants=await searchers.run(lambda: service.variants(request)))

    @app.post(
        "/v1/encode",
        summary="Embeddings of texts, or of uploaded pictures",
        responses=_REFUSALS,
        openapi_extra=_body(EncodeRequest, "image"),
    )
    async def encode(request: Request) -> EncodeResponse:
        if _is_json(request):
            texts = EncodeRequest.model_validate_json(await request.body()).texts
            rows = await searchers.run(lambda: service.encode_texts(texts))
        else:
            _, uploads = await _form(request, MAX_UPLOADS)
            if not uploads:
                raise HTTPException(422, "image: give at least one picture")
            rows = await searchers.run(lambda: service.encode_uploads(uploads))
        return EncodeResponse(model=service.gallery.retriever.fingerprint, embeddings=rows)


def _add_pictures(app: FastAPI, service: Service, decoders: Workers) -> None:
    async def picture(request: Request, number: int, side: int) -> Response:
        made = await decoders.run(lambda: service.rendition(number, side))
        headers = {"ETag": made.etag, "Cache-Control": "private, max-age=300"}
        if request.headers.get("if-none-match") == made.etag:
            return Response(status_code=304, headers=headers)
        return Response(made.jpeg, media_type="image/jpeg", headers=headers)

    def add(path: str, side: int, summary: str) -> None:
        @app.get(path, summary=summary, responses=_REFUSALS | {200: {"content": {"image/jpeg": {}}}})
        async def route(request: Request, id: PictureId) -> Response:  # noqa: A002
            return await picture(request, id, side)

    add("/v1/images/{id}", PICTURE_SIDE, f"A picture as JPEG, at most {PICTURE_SIDE} pixels wide and high")
    add("/v1/images/{id}/thumbnail", THUMBNAIL_SIDE, "A small version of a picture")


def _page_request(items: list[tuple[str, Any]]) -> PageRequest:
    # links from elsewhere may add fields of their own
    known = [(name, value) for name, value in items if name in PageRequest.model_fields]
    request = from_form(known, PageRequest)
    assert isinstance(request, PageRequest)
    return request


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def _form(request: Request, max_files: int) -> tuple[list[tuple[str, Any]], list[bytes]]:
    """Fields and uploaded pictures of a form.

    Raises:
        HTTPException: If the body is no form, is malformed, or has too many fields or files.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise HTTPException(415, "Send application/json or multipart/form-data")
    async with request.form(max_files=max_files, max_fields=_MAX_FIELDS) as form:
        fields: list[tuple[str, Any]] = []
        uploads: list[bytes] = []
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields.append((name, value))
            elif name != "image":
                raise HTTPException(422, f"{name[:40]}: files are taken as `image` only")
            elif data := await value.read():
                # a form without a chosen file sends an empty one
                uploads.append(data)
    return fields, uploads


def _body(model: type[BaseModel], files: str, *, one: bool = False) -> dict[str, Any]:
    """OpenAPI of a body that is JSON, or a form with pictures."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "A picture."}
    form = schema["properties"] if one else {}
    form = {"type": "object", "properties": {**form, files: file if one else {"type": "array", "items": file}}}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
