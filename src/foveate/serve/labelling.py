"""The HTTP interface of a labelling session, in addition to that of the model."""

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
from foveate.serve.reading import UploadRequest, decoded_views, read_names, read_question, read_table
from foveate.serve.session import Session, SessionPaths


@dataclass(frozen=True)
class _PageRevision:
    """Revision of the state that the page showed when it sent the request."""

    revision: int


@dataclass(frozen=True)
class _AnsweredPhoto(_PageRevision):
    """A label; null means "none of the names"."""

    photo: int
    label: str | None


class Labelling:
    """Functions that answer requests about a session.

    Args:
        service: Service of the model; a learned model replaces it there.
        session: The labelling session.
    """

    def __init__(self, service: Service, session: Session) -> None:
        self.service, self.session = service, session

    def routes(self) -> list[Route]:
        """Return the routes."""
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
        """Start with the names of the model and of the session, and with more names.

        Raises:
            InputError: The model cannot take one.
        """
        self.service.begin_with([*self.session.names, *names])
        self.session.add_names([*self.service.model.names, *names])
        self._publish_names()
        self.session.ask_again()

    async def state(self, request: Request) -> Response:
        """Return the state that the page shows."""
        return JSONResponse(await to_thread.run_sync(self.session.state))

    async def photo(self, request: Request) -> Response:
        """Return a photo, reduced to the size that the page shows."""
        render = partial(self.session.shown, _photo_index(request))
        jpeg = await to_thread.run_sync(render, limiter=self.service.decoders)
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def look(self, request: Request) -> Response:
        """Return a photo with the regions highlighted where the model looks."""
        content = await to_thread.run_sync(self.session.file(_photo_index(request)).read_bytes)
        about = request.query_params.get("about", "")
        return await self.service.lit(UploadRequest((("photo", content),), about=about))

    async def names(self, request: Request) -> Response:
        """Add class names."""
        requested = await read_names(request)
        names = await self.service.accepted([*self.session.names, *requested])
        await to_thread.run_sync(self.session.add_names, names)
        self._publish_names()
        await self.service.in_time(self.service.worker.run(self.session.ask_again))
        return await self.state(request)

    async def label(self, request: Request) -> Response:
        """Record the label of a photo of the folder."""
        answer = as_dataclass(_AnsweredPhoto, await read_table(request), "the body")
        await to_thread.run_sync(self.session.label, answer.photo, answer.label, answer.revision)
        return await self.state(request)

    async def bring(self, request: Request) -> Response:
        """Store an uploaded photo and its label; without a label, it shows none of the names."""
        upload = await read_question(request, self.service.limits)
        label = request.query_params.get("label")
        for (_, content), view in zip(
            upload.files,
            await decoded_views(upload, self.service.model, self.service.limits, self.service.decoders),
            strict=True,
        ):
            job = partial(self.session.bring, content, view, label)
            await self.service.in_time(self.service.worker.run(job))
        return await self.state(request)

    async def undo(self, request: Request) -> Response:
        """Take the last label back."""
        page = as_dataclass(_PageRevision, await read_table(request), "the body")
        await to_thread.run_sync(self.session.undo, page.revision)
        return await self.state(request)

    async def learn(self, request: Request) -> Response:
        """Learn from all labels; the learned model answers all later requests."""
        classifier = await self.service.in_time(self.service.worker.run(self.session.learn))
        self.service.model = model_of(classifier)
        return await self.state(request)

    async def save(self, request: Request) -> Response:
        """Save the learned model."""
        try:
            await self.service.in_time(self.service.worker.run(self.session.save))
        except OSError as error:
            folder = self.session.paths.out
            raise Refused(507, f"{folder} cannot be written ({error.strerror or error})") from error
        return await self.state(request)

    async def labels(self, request: Request) -> Response:
        """Export all labels for another program."""
        form = request.query_params.get("form", "csv")
        if form not in FORMS:
            raise InputError(f"there is no form {form[:20]!r}: there are {', '.join(FORMS)}")
        export = partial(written, form, self.session.labels(), self.session.files())
        name, media_type, content = await to_thread.run_sync(export)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=media_type, headers=headers)

    def _publish_names(self) -> None:
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
    """Open a session, and close it at the end.

    Args:
        service: Service of the initial model.
        labels: File of the journal.
        photos: Folder of photos to label, if there is one.
        known: File of labels from another program to import, if there is one.
        out: Output folder for the learned model; None is a folder next to the labels.
        method: Name of the head that is learned.
        watch: Called with the number of encoded photos, and the number of all photos.

    Raises:
        InputError: The model is an export, or a file or folder is unusable.
    """
    if service.model.classifier is None:
        raise InputError(f"{service.model.title} cannot learn: label with the model it was made of")
    paths = SessionPaths(labels, photos, out or labels.with_name(f"{labels.stem}-model"))
    session = Session(service.model.classifier, paths, method=method, watch=watch)
    try:
        if known is not None:
            session.take(read_labels(known))
        yield session
    finally:
        session.close()


def _photo_index(request: Request) -> int:
    value = request.query_params.get("id", "")
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InputError("the id is no number of a photo")
    return int(value)
