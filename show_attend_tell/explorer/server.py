"""The explorer's web server: routes, and what keeps them safe. It computes nothing itself."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from show_attend_tell.data.images import jpeg
from show_attend_tell.errors import UserError
from show_attend_tell.explorer.answers import (
    CaptionQuestion,
    Gaze,
    GazeQuestion,
    PictureFacts,
    Reading,
    Session,
    Table,
)
from show_attend_tell.explorer.explorer import Explorer, Unknown
from show_attend_tell.explorer.live import LatestCaptions, Live, Watch
from show_attend_tell.explorer.pictures import LARGEST_SIDE, THUMBNAIL

STATIC = Path(__file__).parent / "static"
LARGEST_BODY = 32_000_000  # bytes of a request
LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Only our own files, no inline code, and no other site may frame the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_log = logging.getLogger(__name__)


def make_app(
    explorer: Explorer, watch: Watch | None = None, hosts: Collection[str] | None = LOCAL
) -> FastAPI:
    """The web application of an explorer and of training runs to watch.

    Args:
      explorer: answers the questions.
      watch: the training runs; None: there are none to watch.
      hosts: names and addresses by which browsers may call the server; None: any.
    """
    app = FastAPI(
        title="show_attend_tell explorer",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(_Guard, hosts=hosts)
    _add_errors(app)
    _add_questions(app, explorer)
    _add_pictures(app, explorer)
    if watch is not None:
        _add_live(app, watch, explorer)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "page.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", _Fresh(directory=STATIC))
    return app


def _add_questions(app: FastAPI, explorer: Explorer) -> None:
    @app.get("/api/session")
    def session() -> Session:
        """What this explorer was started with."""
        return explorer.session

    @app.post("/api/caption")
    def caption(question: CaptionQuestion) -> Reading:
        """Caption a picture or translate a sentence, optionally with some steps given."""
        return explorer.caption(question)

    @app.post("/api/gaze")
    def gaze(question: GazeQuestion) -> Gaze:
        """The next word's distribution for each place that the step might read."""
        return explorer.gaze(question)

    @app.get("/api/words")
    def words(run: str, begins: str = "") -> list[str]:
        """A run's most frequent words that begin with `begins`."""
        return explorer.words(run, begins[:100])

    @app.get("/api/table")
    def table() -> Table:
        """The runs' captions of the split's pictures, as far as they are made."""
        if explorer.browsing is None:
            raise Unknown(explorer.session.hint or "there is no split to browse")
        return explorer.browsing.table()


def _add_pictures(app: FastAPI, explorer: Explorer) -> None:
    pictures = explorer.pictures

    @app.post("/api/pictures")
    async def add(request: Request, name: str = "picture") -> PictureFacts:
        """Add a picture; the body of the request is the file."""
        # In a thread: to decode a large picture takes seconds, and others are served meanwhile.
        return await run_in_threadpool(pictures.add, name, await request.body())

    @app.get("/api/pictures/{picture}")
    def facts(picture: str) -> PictureFacts:
        """What is known of a picture."""
        return pictures[picture].facts

    def image(picture: str, side: int) -> Response:
        content = jpeg(pictures[picture].picture, side)
        # An id always means the same picture.
        lasting = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(content, media_type="image/jpeg", headers=lasting)

    @app.get("/api/pictures/{picture}/image", response_class=Response)
    def whole(picture: str) -> Response:
        """The picture, upright, as JPEG with sides of up to 1,024 pixels."""
        return image(picture, LARGEST_SIDE)

    @app.get("/api/pictures/{picture}/thumbnail", response_class=Response)
    def thumbnail(picture: str) -> Response:
        """The picture with sides of up to 192 pixels."""
        return image(picture, THUMBNAIL)


def _add_live(app: FastAPI, watch: Watch, explorer: Explorer) -> None:
    @app.get("/api/live")
    def live() -> Live:
        """The training runs being watched, with their curves."""
        return watch.snapshot()

    @app.get("/api/live/events", response_class=StreamingResponse)
    async def events(request: Request) -> StreamingResponse:
        """The same as server-sent events: all of it first, then what changes."""
        stream = watch.events(request.is_disconnected)
        return StreamingResponse(stream, media_type="text/event-stream")

    @app.get("/api/live/{name:path}/captions")
    def captions(name: str) -> LatestCaptions:
        """The first captions of a run's newest validation."""
        return watch.captions(name, explorer.pictures.id_of)


def _add_errors(app: FastAPI) -> None:
    """Every error is one line of JSON."""

    def answer(status: int, error: object) -> JSONResponse:
        return JSONResponse({"error": " ".join(str(error).split())}, status)

    @app.exception_handler(UserError)
    async def wrong(request: Request, error: UserError) -> JSONResponse:
        return answer(400, error)

    @app.exception_handler(LookupError)
    async def unknown(request: Request, error: LookupError) -> JSONResponse:
        if isinstance(error, Unknown):
            return answer(404, error)
        if isinstance(error, KeyError):
            return answer(404, f"no such picture: {error.args[0]}")
        raise error

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: Any = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(422, f"{where}: {first['msg']}" if where else first["msg"])

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error.detail)


class _Fresh(StaticFiles):
    """Static files that a browser must check for changes: another version may bring new ones."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


class _Guard:
    """Rejects other sites' requests and large bodies; adds security headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        # Another site's name could be made to lead here; its scripts would then pass as ours.
        if self._hosts is not None and not {host, host.rpartition(":")[0]} & {*self._hosts}:
            why = f"{host[:100]}: not a name of this server; call it 127.0.0.1 or localhost"
            await _refuse(400, why, scope, receive, send)
            return
        if origin is not None and origin.split("://")[-1] != host:
            await _refuse(403, "requests from other sites are not answered", scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            await _refuse(413, _too_large(), scope, receive, send)
            return
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY:
                raise _TooLarge
            return message

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                extra = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        try:
            await self._app(scope, counted, guarded)
        except _TooLarge:
            if not started:
                await _refuse(413, _too_large(), scope, receive, send)


def _too_large() -> str:
    return f"the file is larger than {LARGEST_BODY // 1_000_000} MB; scale the picture down"


class _TooLarge(Exception):
    """The body of a request is too large."""


async def _refuse(status: int, why: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": why}, status, HEADERS)(scope, receive, send)
