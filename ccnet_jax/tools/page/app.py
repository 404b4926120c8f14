"""The page over HTTP: which address answers what, with Starlette.

    GET  /, /style.css, /*.js                the page
    GET  /about                              networks, the run's own images, limits
    POST /images (a file), /images?own=  keep an image; its key
    GET  /images, /own                     that image; a small one of the run's own
    POST /predictions                        what the network finds
    GET  /label.png, /overlay.png            the same, to download
    POST /attention                          what a pixel attends to

Images, runs and pixels are named by keys and numbers in the query: no path of the file system is ever made
of what comes from the network. One prediction is made at a time; the others wait.
"""

import asyncio
import gzip
import pathlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ccnet_jax.common.errors import UserError
from ccnet_jax.tools.page.answers import Explorer, Question
from ccnet_jax.tools.page.guard import Guard
from ccnet_jax.tools.page.networks import Way
from ccnet_jax.tools.page.uploads import Gone, TooLarge, too_many_bytes

_STATIC = pathlib.Path(__file__).parent / "static"
FILES = {  # {address: (file, type)}
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
    "/server.js": ("server.js", "text/javascript"),
    "/pane.js": ("pane.js", "text/javascript"),
    "/sources.js": ("sources.js", "text/javascript"),
    "/cross.svg": ("cross.svg", "image/svg+xml"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
MOST_WAITING = 8  # predictions; more are refused
MOST_SENDING = 8  # images on their way here; more are refused
BODY_SECONDS = (
    20.0  # in which the whole of one has to come: a sender that stops half-way holds its place no longer
)
Result = TypeVar("Result")
_PACKED = {"content-encoding": "gzip"}


def make_app(explorer: Explorer, hosts: Iterable[str] | None) -> Guard:
    """The ASGI application.

    Args:
      explorer: what answers.
      hosts: names in the Host header that are answered, see `Guard`; None for all.
    """
    desk = _Desk(explorer)
    routes = [Route(address, _file(*file)) for address, file in FILES.items()]
    routes += [
        Route("/about", desk.about),
        Route("/images", desk.add, methods=["POST"]),
        Route("/images", desk.image),
        Route("/own", desk.own),
        Route("/predictions", desk.prediction, methods=["POST"]),
        Route("/label.png", desk.label),
        Route("/overlay.png", desk.overlay),
        Route("/attention", desk.attention, methods=["POST"]),
    ]
    handlers = {UserError: _told, HTTPException: _no_such, ClientDisconnect: _left, Exception: _fault}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)


class Busy(UserError):
    """Too many ask at once."""


class TooSlow(UserError):
    """A file did not come in time."""


_STATUS: dict[type[Exception], int] = {TooLarge: 413, Gone: 404, Busy: 503, TooSlow: 408}


class _Desk:
    """One method an address."""

    def __init__(self, explorer: Explorer):
        self._explorer = explorer
        self._network_lock, self._image_lock = asyncio.Lock(), asyncio.Lock()
        self._waiting = self._sending = 0

    async def about(self, _: Request) -> Response:
        return JSONResponse(self._explorer.describe())

    async def add(self, request: Request) -> Response:
        if "own" in request.query_params:
            index = _number(request, "own")
            added = await self._with_image(lambda: self._explorer.add_own(index))
        else:
            data = await self._body(request)
            added = await self._with_image(lambda: self._explorer.add(data))
        return JSONResponse(added)

    async def image(self, request: Request) -> Response:
        key = request.query_params.get("image", "")
        return _png(await run_in_threadpool(self._explorer.image_png, key))

    async def own(self, request: Request) -> Response:
        index = _number(request, "index")
        return _png(await self._with_image(lambda: self._explorer.thumbnail_png(index)))

    async def prediction(self, request: Request) -> Response:
        question = _question(request)
        return await self._with_network(
            request, lambda: _packed_response(self._explorer.prediction(question))
        )

    async def label(self, request: Request) -> Response:
        question = _question(request)
        return await self._with_network(request, lambda: _png(self._explorer.label_png(question), saved=True))

    async def overlay(self, request: Request) -> Response:
        question, opacity = _question(request), _number(request, "opacity", most=100) / 100
        return await self._with_network(
            request, lambda: _png(self._explorer.overlay_png(question, opacity), saved=True)
        )

    async def attention(self, request: Request) -> Response:
        question = _question(request)
        point = _number(request, "row"), _number(request, "column")
        return await self._with_network(
            request, lambda: _packed_response(self._explorer.attention(question, point))
        )

    async def _body(self, request: Request) -> bytes:
        """The request's body, of which no more is read than is allowed. Raises TooLarge, Busy and TooSlow."""
        limits, parts, size = self._explorer.limits, [], 0
        if self._sending >= MOST_SENDING:
            raise Busy(f"{MOST_SENDING} images are on their way here already; try again in a moment")
        self._sending += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size += len(part)
                    if size > limits.megabytes * 10**6:
                        raise TooLarge(too_many_bytes(limits))
                    parts.append(part)
        except TimeoutError:
            raise TooSlow(f"the file did not come within {BODY_SECONDS:.0f} s; send it again") from None
        finally:
            self._sending -= 1
        return b"".join(parts)

    async def _with_image(self, work: Callable[[], Result]) -> Result:
        async with self._image_lock:  # an image of 50 million pixels takes 150 MB while it is read
            return await run_in_threadpool(work)

    async def _with_network(self, request: Request, work: Callable[[], Response]) -> Response:
        """The answer that `work` gives in a thread, one at a time; work that nobody waits for is left out."""
        if self._waiting >= MOST_WAITING:
            raise Busy(f"{MOST_WAITING} predictions are waiting already; try again in a moment")
        self._waiting += 1
        try:
            async with self._network_lock:
                if await request.is_disconnected():
                    return Response(status_code=499)
                return await run_in_threadpool(work)
        finally:
            self._waiting -= 1


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    """What answers with a file of the page."""
    content = (_STATIC / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _question(request: Request) -> Question:
    """The image, the run and the way in a query. Raises UserError where they are none."""
    query = request.query_params
    scales = query.get("scales", "one")
    if scales not in ("one", "several"):
        raise UserError("scales must be one or several")
    loops = _number(request, "loops") if query.get("loops") else None
    return Question(query.get("image", ""), _number(request, "run"), Way(loops, scales == "several"))


def _number(request: Request, name: str, most: int = 10**6) -> int:
    """A whole number in a query. Raises UserError where it is none, or too large."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= most):
        raise UserError(f"{name} must be a whole number from 0 to {most}")
    return int(text)


def _packed_response(data: bytes) -> Response:
    return Response(gzip.compress(data, 4), media_type="application/octet-stream", headers=_PACKED)


def _png(data: bytes, saved: bool = False) -> Response:
    """A PNG; browsers show it, or save it under the name that the page gives."""
    headers = {"content-disposition": "attachment"} if saved else {}
    return Response(data, media_type="image/png", headers=headers)


async def _told(_: Request, error: Exception) -> Response:
    """A message for the page."""
    # what is left of a body is not waited for
    headers = {"connection": "close"} if isinstance(error, TooLarge | Busy | TooSlow) else {}
    return JSONResponse({"error": str(error)}, _STATUS.get(type(error), 400), headers)


async def _no_such(_: Request, error: Exception) -> Response:
    """A message where there is no such address, or not with this method."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": "there is nothing at this address"}, error.status_code)


async def _left(_: Request, __: Exception) -> Response:
    """Nobody reads this: the browser went away while it was sending."""
    return Response(status_code=499)


async def _fault(_: Request, error: Exception) -> Response:
    """A message for a fault of ours; the server prints the traceback in the terminal."""
    message = f"the program failed ({type(error).__name__}); its terminal says how, and it works on"
    return JSONResponse({"error": message}, 500)
