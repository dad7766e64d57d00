"""The HTTP server of the page. Images are requested by split and row, never by a path of a file."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import uvicorn
from PIL import Image
from pydantic import Base64Bytes, BaseModel, Field, FiniteFloat, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vae.errors import UserError
from vae.explore.explorer import Explorer, rgba
from vae.explore.image_input import MAX_BYTES

PAGE = Path(__file__).parent / "page"
MAX_CODES = 64  # codes per request


class Codes(BaseModel, extra="forbid"):
    codes: list[list[FiniteFloat]] = Field(min_length=1, max_length=MAX_CODES)
    label: int | None = None  # the number of the label of a conditional model
    previous: Base64Bytes | None = None  # the RGBA bytes of the picture shown, to get a draft
    run: str | None = None  # the run of the page, which may differ after a restart at the same address


async def read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises HTTPException if a page of another origin sent it, and UserError if it is too large, without keeping it in
    memory.
    """
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers["host"]:
        raise HTTPException(403, "expected a request of this page")
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BYTES:
            body += chunk
        else:
            body.clear()
    if size > MAX_BYTES:
        raise UserError(f"{size / 1e6:.1f} MB: expected at most {MAX_BYTES // 1_000_000} MB")
    return bytes(body)


def label_of(request: Request) -> int | None:
    """Return the number of the label in the query, if there is one. Raises UserError for anything but a number."""
    text = request.query_params.get("label")
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(f"label={text}: expected the number of a label")
    return None if text is None else int(text)


def user_error_response(_: Request, error: Exception) -> Response:
    return JSONResponse({"message": str(error)}, 422)


class Endpoints:
    """Answer the requests of the page. Slow ones run in a thread pool, so that decoding need not wait for them."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    async def about(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: self.explorer.about))

    async def decode(self, request: Request) -> Response:
        try:
            given = Codes.model_validate_json(await read_body(request))
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
        if given.run not in (None, self.explorer.run):
            raise UserError(f"this page shows {given.run}, but {self.explorer.run} is explored now; reload the page")
        d = len(self.explorer.mean_code)
        if any(len(code) != d for code in given.codes):
            raise UserError(f"codes: expected {d} numbers in each")
        pictures = self.explorer.decode(given.codes, given.label, given.previous)
        return Response(pictures, media_type="application/octet-stream")

    async def sample(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.explorer.sample_prior, label_of(request)))

    async def search(self, request: Request) -> Response:
        return JSONResponse(self.explorer.search(request.query_params.get("q", "")))

    async def image(self, request: Request) -> Response:
        x = self.explorer.image(request.path_params["name"]).x
        picture, file = Image.frombytes("RGBA", (x.shape[3], x.shape[2]), rgba(x)), io.BytesIO()
        picture.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def interpolate(self, request: Request) -> Response:
        names = [request.query_params.get(end, "") for end in ("first", "second")]
        return JSONResponse(self.explorer.interpolate(*names))

    async def dataset_image(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.explorer.dataset_image, request.path_params["name"]))

    async def uploaded_image(self, request: Request) -> Response:
        content, drawn = await read_body(request), "drawn" in request.query_params
        return JSONResponse(await run_in_threadpool(self.explorer.uploaded_image, content, drawn, label_of(request)))

    async def reference_scores(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: self.explorer.reference_scores))


class Server(uvicorn.Server):
    """A server that stops within about a second of Ctrl-C and drops unfinished requests."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.getLogger("uvicorn.error").disabled = True  # it would report the dropped requests
        super().handle_exit(sig, frame)


def build_app(explorer: Explorer, hosts: Sequence[str]) -> Starlette:
    """Build the application. It answers only requests to one of these hosts, or all if 0.0.0.0 is among them."""
    endpoints = Endpoints(explorer)
    routes = [
        Route("/about", endpoints.about),
        Route("/decode", endpoints.decode, methods=["POST"]),
        Route("/sample", endpoints.sample),
        Route("/search", endpoints.search),
        Route("/image/{name:path}.png", endpoints.image),
        Route("/interpolate", endpoints.interpolate),
        Route("/encode/{name:path}", endpoints.dataset_image),
        Route("/encode", endpoints.uploaded_image, methods=["POST"]),
        Route("/reference_scores", endpoints.reference_scores),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    allowed = ["*"] if "0.0.0.0" in hosts else list(hosts)
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed)],
        exception_handlers={UserError: user_error_response},
    )
