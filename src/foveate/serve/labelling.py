"""The HTTP interface of a labelling session, beside that of the model."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from foveate.configs import as_dataclass
from foveate.data.labels import FORMS, read_labels, written
from foveate.errors import InputError
from foveate.serve.app import Service
from foveate.serve.learning import HEAD
from foveate.serve.limits import Refused
from foveate.serve.models import model_of
from foveate.serve.reading import UploadRequest, checked_names, read_question, read_table, seen
from foveate.serve.session import Session, SessionPaths


@dataclass(frozen=True)
class _Seen:
    """What a page saw when somebody said something."""

    revision: int


@dataclass(frozen=True)
class _AnsweredPhoto(_Seen):
    """A label; null is none of the names."""

    photo: int
    label: str | None


class Labelling:
    """Functions that answer requests about a session.

    Args:
        service: Of the model; what is learned takes its place there.
        session: The labels.
    """

    def __init__(self, service: Service, session: Session) -> None:
        self.service, self.session = service, session

    def routes(self) -> list[Route]:
        """Return what can be asked."""
        return [
            Route("/session", self.state, methods=["GET"]),
            Route("/session/photo", self.photo, methods=["GET"]),
            Route("/session/look", self.look, methods=["GET"]),
            Route("/session/names", self.names, methods=["POST"]),
            Route("/session/label", self.label, methods=["POST"]),
            Route("/session/bring", self.bring, methods=["POST"]),
            Route("/session/undo", self.undo, methods=["POST"]),
            Route("/session/learn", self.learn, methods=["POST"]),
            Route("/session/save", self.save, methods=["POST"]),
            Route("/session/labels", self.labels, methods=["GET"]),
        ]

    def begin_with(self, names: Sequence[str]) -> None:
        """Take the model's names, those of before, and more, before anybody asks.

        Raises:
            InputError: The model cannot take one.
        """
        self.service.begin_with([*self.session.names, *names])
        self.session.add_names([*self.service.model.names, *names])
        self._take_names()
        self.session.ask_again()

    async def state(self, request: Request) -> Response:
        """Return all that a page shows."""
        return JSONResponse(await to_thread.run_sync(self.session.state))

    async def photo(self, request: Request) -> Response:
        """Return a photo, as large as a page needs."""
        shown = partial(self.session.shown, _place(request))
        drawn = await to_thread.run_sync(shown, limiter=self.service.decoders)
        return Response(drawn, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def look(self, request: Request) -> Response:
        """Return a photo, lit where the model looks."""
        content = await to_thread.run_sync(self.session.file(_place(request)).read_bytes)
        about = request.query_params.get("about", "")
        return await self.service.lit(UploadRequest((("photo", content),), about=about))

    async def names(self, request: Request) -> Response:
        """Add classes that photos can be of."""
        given = (await read_table(request)).get("names")
        if not isinstance(given, list) or not given:
            raise InputError('there are no names to add: send {"names": ["barn owl"]}')
        names = checked_names([*self.session.names, *given], self.service.limits)
        await self.service.demand_names(names)
        await to_thread.run_sync(self.session.add_names, names)
        self._take_names()
        await self.service.in_time(self.service.worker.run(self.session.ask_again))
        return await self.state(request)

    async def label(self, request: Request) -> Response:
        """Take a label of a photo of the folder."""
        said = as_dataclass(_AnsweredPhoto, await read_table(request), "the body")
        await to_thread.run_sync(self.session.label, said.photo, said.label, said.revision)
        return await self.state(request)

    async def bring(self, request: Request) -> Response:
        """Take a photo that somebody brings, and its label; without one it shows none of the names."""
        asked = await read_question(request, self.service.limits)
        label = request.query_params.get("label")
        for (_, content), view in zip(
            asked.files,
            await seen(asked, self.service.model, self.service.limits, self.service.decoders),
            strict=True,
        ):
            job = partial(self.session.bring, content, view, label)
            await self.service.in_time(self.service.worker.run(job))
        return await self.state(request)

    async def undo(self, request: Request) -> Response:
        """Take the last label back."""
        said = as_dataclass(_Seen, await read_table(request), "the body")
        await to_thread.run_sync(self.session.undo, said.revision)
        return await self.state(request)

    async def learn(self, request: Request) -> Response:
        """Learn from all labels; who asks from now on is answered by what was learned."""
        learned = await self.service.in_time(self.service.worker.run(self.session.learn))
        self.service.model = model_of(learned)
        return await self.state(request)

    async def save(self, request: Request) -> Response:
        """Write the model that was learned."""
        try:
            await self.service.in_time(self.service.worker.run(self.session.save))
        except OSError as error:
            folder = self.session.places.out
            raise Refused(507, f"{folder} cannot be written ({error.strerror or error})") from error
        return await self.state(request)

    async def labels(self, request: Request) -> Response:
        """Return all labels, for another program."""
        form = request.query_params.get("form", "csv")
        if form not in FORMS:
            raise InputError(f"there is no form {form[:20]!r}: there are {', '.join(FORMS)}")
        make = partial(written, form, self.session.labels(), self.session.files())
        name, kind, content = await to_thread.run_sync(make)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)

    def _take_names(self) -> None:
        self.service.added = self.session.names


@contextmanager
def open_session(
    service: Service,
    labels: Path,
    photos: Path | None,
    known: Path | None,
    out: Path | None,
    *,
    method: str = HEAD,
    watch: Callable[[int, int], None] | None = None,
) -> Generator[Session]:
    """Open a session, and close it in the end.

    Args:
        service: Of the model to begin with.
        labels: The journal.
        photos: Folder of photos to label, if there is one.
        known: Labels of another program to begin with, if there are any.
        out: Folder for the model that is saved; None is beside the labels.
        method: Which head is learned.
        watch: Told how many photos have been looked at, and how many there are.

    Raises:
        InputError: The model is an export, or a file or folder is not what it should be.
    """
    if service.model.classifier is None:
        raise InputError(f"{service.model.title} cannot learn: label with the model it was made of")
    places = SessionPaths(labels, photos, out or labels.with_name(f"{labels.stem}-model"))
    session = Session(service.model.classifier, places, method=method, watch=watch)
    try:
        if known is not None:
            session.take(read_labels(known))
        yield session
    finally:
        session.close()


def _place(request: Request) -> int:
    word = request.query_params.get("id", "")
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise InputError("the id is no number of a photo")
    return int(word)
