"""The page and what it asks for, over HTTP. No path of a file is taken from outside: images go by split and row."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from vae.errors import UserError
from vae.explore.explorer import Explorer, rgba
from vae.explore.image_input import BYTES

PAGE = Path(__file__).parent / "page"
AT_ONCE = 64  # codes to decode


class Codes(BaseModel, extra="forbid"):
    codes: list[list[FiniteFloat]] = Field(min_length=1, max_length=AT_ONCE)
    run: str | None = None  # that the page is of: at this address there may be another's by now


async def body(request: Request) -> bytes:
    """What was sent; UserError if it is too much, of which nothing is kept."""
    kept, size = bytearray(), 0
    async for part in request.stream():
        size += len(part)
        if size <= BYTES:
            kept += part
        else:
            kept.clear()
    if size > BYTES:
        raise UserError(f"{size / 1e6:.1f} MB: expected {BYTES // 1_000_000} MB at most")
    return bytes(kept)


def refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"message": str(error)}, 422)


class Routes:
    """Of an explorer. What takes long runs beside what a pointer waits for."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer

    async def about(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: self.explorer.about))

    async def decode(self, request: Request) -> Response:
        try:
            asked = Codes.model_validate_json(await body(request))
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
        if asked.run not in (None, self.explorer.run):
            raise UserError(f"this page is of {asked.run}, and {self.explorer.run} is explored now; load it anew")
        d = len(self.explorer.home)
        if any(len(code) != d for code in asked.codes):
            raise UserError(f"codes: expected {d} numbers in each")
        return Response(self.explorer.decoded(asked.codes), media_type="application/octet-stream")

    async def draw(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.explorer.drawn))

    async def search(self, request: Request) -> Response:
        return JSONResponse(self.explorer.search(request.query_params.get("q", "")))

    async def image(self, request: Request) -> Response:
        x = self.explorer.image(request.path_params["name"]).x
        picture, file = Image.frombytes("RGBA", (x.shape[3], x.shape[2]), rgba(x)), io.BytesIO()
        picture.save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def between(self, request: Request) -> Response:
        names = [request.query_params.get(end, "") for end in ("first", "second")]
        return JSONResponse(self.explorer.between(*names))

    async def known(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.explorer.known, request.path_params["name"]))

    async def upload(self, request: Request) -> Response:
        drawn = "drawn" in request.query_params
        return JSONResponse(await run_in_threadpool(self.explorer.uploaded, await body(request), drawn))

    async def others(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(lambda: self.explorer.others))


class Server(uvicorn.Server):
    """Of an app; ends within a second or so of Ctrl-C, and cuts off without a word whoever has not sent all by then."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.getLogger("uvicorn.error").disabled = True
        super().handle_exit(sig, frame)


def app(explorer: Explorer, hosts: Sequence[str]) -> Starlette:
    """For those alone who call it by one of these hosts, or by any if 0.0.0.0 is among them."""
    of: Any = Routes(explorer)
    routes = [
        Route("/about", of.about),
        Route("/decode", of.decode, methods=["POST"]),
        Route("/draw", of.draw),
        Route("/search", of.search),
        Route("/image/{name:path}.png", of.image),
        Route("/between", of.between),
        Route("/seen/{name:path}", of.known),
        Route("/seen", of.upload, methods=["POST"]),
        Route("/others", of.others),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    allowed = ["*"] if "0.0.0.0" in hosts else list(hosts)
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed)],
        exception_handlers={UserError: refused},
    )
