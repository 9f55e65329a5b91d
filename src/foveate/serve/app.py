"""The HTTP interface: routes, and the functions that answer them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from anyio import CapacityLimiter
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import foveate
from foveate.errors import InputError, printable
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import png_bytes
from foveate.serve.describing import description
from foveate.serve.door import LOG, TOKEN, Door, Metrics
from foveate.serve.limits import BUSY, Limits, Refused
from foveate.serve.models import BatchWorker, Model, PredictRequest
from foveate.serve.reading import UploadRequest, checked_names, decoded_views, read_names, read_question

PAGE = "page.html"
_DECODERS = 2
_LONGEST = 400  # letters of a reason
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Service:
    """A model, the names added to it, and the functions that answer requests.

    Args:
        model: The model that answers.
        limits: Limits of a request.
        batch: Maximum number of pictures in one call of the model.

    Attributes:
        added: Class names, besides the trained ones, that all clients can choose from.
    """

    def __init__(self, model: Model, limits: Limits | None = None, *, batch: int = 64) -> None:
        self.model, self.limits = model, limits or Limits()
        self.added: tuple[str, ...] = ()
        self._adding = asyncio.Lock()
        self.metrics = Metrics(lambda: self.worker.waiting)
        self.worker = BatchWorker(
            lambda *args, **options: self.model.ask(*args, **options), batch, self.metrics.pictures.observe
        )
        self.decoders = CapacityLimiter(_DECODERS)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/look", self.look, methods=["POST"]),
            Route("/classes", self.classes, methods=["GET", "POST", "DELETE"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.counts, methods=["GET"]),
            Route("/openapi.json", self.describe, methods=["GET"]),
        ]

    def begin_with(self, names: Sequence[str]) -> None:
        """Add names before the first request.

        Raises:
            InputError: There are too many, or the model cannot take one.
        """
        if len(names) > self.limits.names:
            raise InputError(
                f"there are {len(names)} names: give {self.limits.names}, or raise --limits.names"
            )
        added = checked_names(names, self.limits)
        if added and self.model.check is not None:
            self.model.check(list(added))
        self.added = added

    async def page(self, request: Request) -> Response:
        """Return the page; a token in the address is moved into a cookie, and the address is reloaded."""
        token = request.query_params.get("token")
        if token is not None:
            redirect = RedirectResponse("/", 303)
            redirect.set_cookie(TOKEN, token, httponly=True, samesite="strict")
            return redirect
        text = files("foveate.serve").joinpath(PAGE).read_text(encoding="utf-8")
        return Response(text, media_type="text/html", headers=_SECURITY_HEADERS)

    async def predict(self, request: Request) -> Response:
        """Classify pictures."""
        upload = await read_question(request, self.limits)
        classes = self._names(upload.classes, only=upload.only)
        pictures = await decoded_views(upload, self.model, self.limits, self.decoders)
        question = PredictRequest(pictures, classes, upload.only, upload.risk, upload.abstain)
        answers = await self.in_time(self.worker.put(question))
        pairs = zip(upload.files, answers, strict=True)
        return JSONResponse({"answers": [{**asdict(answer), "photo": name} for (name, _), answer in pairs]})

    async def look(self, request: Request) -> Response:
        """Return a picture with the regions highlighted where the model looked."""
        upload = await read_question(request, self.limits)
        if len(upload.files) > 1:
            raise Refused(413, f"there are {len(upload.files)} pictures: look at one at a time")
        return await self.lit(upload)

    async def lit(self, upload: UploadRequest) -> Response:
        """Return the answer of `look`.

        Raises:
            InputError: The picture cannot be read, or `about` is none of the classes.
        """
        classes = self._names(upload.classes, only=upload.only)
        (view,) = await decoded_views(upload, self.model, self.limits, self.decoders)
        job = self.worker.run(
            lambda: gaze_at(self.model, view, classes, only=upload.only, about=upload.about)
        )
        overlay, about = await self.in_time(job)
        # A header holds only ASCII; JSON escapes all other letters.
        return Response(png_bytes(overlay), media_type="image/png", headers={"X-About": json.dumps(about)})

    async def classes(self, request: Request) -> Response:
        """Return the class names; POST adds some, DELETE removes the added ones."""
        if request.method == "POST":
            requested = await read_names(request)
            async with self._adding:  # two clients may add names at once
                self.added = await self.accepted([*self.added, *requested])
        elif request.method == "DELETE":
            self.added = ()
        return JSONResponse({"trained": list(self.model.names), "added": list(self.added)})

    async def health(self, request: Request) -> Response:
        """Report that the server works, and its model."""
        status = {"status": "ok", "model": self.model.title, "version": foveate.__version__}
        return JSONResponse({**status, "refuses": self.model.refuses})

    async def counts(self, request: Request) -> Response:
        """Return the metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def describe(self, request: Request) -> Response:
        """Return the OpenAPI description."""
        return JSONResponse(description(self.limits))

    async def accepted(self, names: Sequence[object]) -> tuple[str, ...]:
        """Return names in their canonical spelling; refuse names that the model cannot take.

        Raises:
            Refused: As `checked_names`.
            InputError: As `checked_names`, and as `Classifier.ask_about`.
        """
        checked, check = checked_names(names, self.limits), self.model.check
        if check is not None:
            await self.in_time(self.worker.run(lambda: check(list(checked))))
        return checked

    async def in_time(self, future: Any) -> Any:
        """Wait for a job of the worker.

        Raises:
            Refused: The job takes too long; if it has not started, it is cancelled.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError as error:
            raise Refused(503, BUSY, Retry_After="5") from error

    def _names(self, classes: Sequence[str], *, only: bool) -> tuple[str, ...]:
        return checked_names(classes if only else [*self.added, *classes], self.limits)


def build_app(service: Service, token: str | None = None, more: Sequence[Route] = ()) -> Door:
    """Return the ASGI app.

    Args:
        service: Answers the requests.
        token: Token that each request must carry; None if none is required.
        more: Additional routes.
    """
    routes = [*service.routes(), *more]

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(service.worker.close)

    app = Starlette(
        routes=[Route(route.path, _guarded(route.endpoint), methods=route.methods) for route in routes],
        lifespan=life,
        exception_handlers={
            Refused: _refused,
            InputError: _refused,
            HTTPException: _refused,
            ClientDisconnect: _refused,
            Exception: _broken,
        },
    )
    return Door(app, service.limits, service.metrics, {route.path for route in routes}, token)


def _guarded(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        if request.scope["refused"] is not None:
            raise request.scope["refused"]
        return await answer(request)

    return answered


async def _refused(request: Request, error: Exception) -> Response:
    match error:
        case Refused():
            return _line(error.status, error.reason, error.headers)
        case BadPicture() | InputError(__cause__=BadPicture()):
            cause = error if isinstance(error, BadPicture) else error.__cause__
            assert isinstance(cause, BadPicture)
            return _line(422, f"{cause.name}: {cause.reason}")  # the remedy is for users who have the file
        case HTTPException():
            reasons = {404: "there is nothing here", 405: "this cannot be asked in that way"}
            return _line(error.status_code, reasons.get(error.status_code, error.detail), error.headers)
        case ClientDisconnect():
            return _line(400, "the request ended before its end")
        case _:
            return _line(422, str(error))


async def _broken(request: Request, error: Exception) -> Response:
    LOG.error("a request failed", exc_info=error)
    return _line(500, "the server failed; its log says why")


def _line(status: int, reason: str, headers: Any = None) -> Response:
    line = printable(" ".join(reason.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 1]}…"
    return JSONResponse({"error": line}, status, dict(headers or {}))


# Shows where a model looked in one picture.


SIDE = 320


def gaze_at(
    model: Model, view: Image.Image, classes: Sequence[str], *, only: bool = False, about: str = ""
) -> tuple[Image.Image, str]:
    """Return a picture with the regions highlighted where a model looks for a class, and the class.

    Args:
        model: The model.
        view: The square that it sees.
        classes: Class names besides the trained ones.
        only: Whether to choose from `classes` alone.
        about: The class; empty for the model's own answer.

    Raises:
        Refused: The model is an export, which computes no gradients.
        InputError: `about` is none of the classes to choose from.
    """
    classifier = model.classifier
    if classifier is None:
        raise Refused(501, f"{model.title} cannot tell where it looks: serve the model it was made of")
    import torch

    from foveate.data.transforms import to_tensor
    from foveate.explain import overlay
    from foveate.explain.maps import gaze_and_answer

    branch = classifier.ask_about(classes, only=only)
    method, config = classifier.method, classifier.clip.config
    if about and about not in method.names:
        raise InputError(f"class {about!r} is none of those asked about")
    images = to_tensor(view, config.mean, config.std)[None].to(classifier.clip.logit_scale.device)
    target = torch.tensor([method.names.index(about)], device=images.device) if about else None
    gaze = gaze_and_answer(method, images, target, branch)
    return overlay(view, gaze.heat[0].cpu(), SIDE), method.names[int(gaze.labels[0])]
