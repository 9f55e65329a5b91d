"""A session of labelling: photos and what is kept of them, labels, what was learned, and what comes next."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from PIL import Image

from foveate.classifier import Classifier
from foveate.data.checks import check_pictures
from foveate.data.labels import Labelled
from foveate.data.listing import list_pictures, tell_unread
from foveate.data.naming import clean_name, name_key
from foveate.data.pictures import open_picture
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.capabilities import ClosedForm
from foveate.methods.registry import REFERENCE
from foveate.serve.journal import LabelJournal
from foveate.serve.learning import HEAD, answered, learn, most_useful
from foveate.serve.limits import Refused
from foveate.train.banking import clip_features
from foveate.types import Logits

SHOWN = 1024  # pixels of a photo's longer side on the page
_GUESSES = 5


@dataclass(frozen=True)
class SessionPaths:
    """Where a session keeps what it has.

    Attributes:
        labels: The journal.
        photos: Folder of photos to label; None where only photos that people bring are.
        out: Folder for the model that is saved.
    """

    labels: Path
    photos: Path | None
    out: Path

    @property
    def brought(self) -> Path:
        """Folder of photos that people brought and labelled."""
        return self.labels.with_name(f"{self.labels.stem}-photos")

    @property
    def features(self) -> Path:
        """Folder of what the frozen tower says of the photos."""
        return self.labels.with_name(f"{self.labels.stem}-features")


class Session:
    """One journal and its photos, for all pages that are open.

    Args:
        start: The classifier to begin with; what is learned stands on its towers.
        places: Where things are.
        method: Which head is learned.
        watch: Told how many photos have been looked at, and how many there are.

    Attributes:
        photos: Their names: paths below the folder of photos, or in that of photos that were brought.
        left_out: Name and reason of each photo that cannot be read.
        learned: The classifier that was learned last; None before.

    Raises:
        InputError: The folder has no photos, or the journal is another session's or none.
    """

    def __init__(
        self,
        start: Classifier,
        places: SessionPaths,
        *,
        method: str = HEAD,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._start, self.places, self._method = start, places, method
        self._zeroshot = start if start.method_name == REFERENCE else start.beside(REFERENCE)
        self._turn = RLock()
        self.learned: Classifier | None = None
        self._learned_from = 0
        self.saved: Path | None = None
        self._journal = LabelJournal(places.labels)
        try:
            self._files, self.left_out = _found(places)
            self.photos = list(self._files)
            self._features = self._encoded(watch)
        except BaseException:
            self._journal.close()
            raise
        self._logits: Logits | None = None

    # --- what a page is shown ---

    def state(self) -> dict[str, Any]:
        """Return all that a page shows, as JSON has it."""
        with self._turn:
            labels = self._journal.labels
            current = {photo: one for photo, one in labels.current.items() if photo in self._files}
            place = most_useful(self._features, self._logits, self._taken()) if self.photos else None
            return {
                "revision": self._journal.lines,
                "names": list(labels.names),
                "photos": len(self.photos),
                "labelled": len(current),
                "none": sum(one is None for one in current.values()),
                "left_out": len(self.left_out),
                "undo": labels.history[-1][0] if labels.history else None,
                "learned": {"from": self._learned_from, "method": self._method} if self.learned else None,
                "saved": str(self.saved) if self.saved else None,
                "next": None if place is None else {"photo": place, "guesses": self._guesses(place)},
            }

    def shown(self, place: int) -> bytes:
        """Return a photo as a JPEG for people.

        Raises:
            Refused: There is no such photo.
            InputError: It cannot be read any more.
        """
        return _jpeg(open_picture(self._files[self._name(place)]))

    def file(self, place: int) -> Path:
        """Return where a photo is."""
        return self._files[self._name(place)]

    # --- what people say ---

    def add_names(self, names: Sequence[str]) -> None:
        """Take classes that photos can be of, which the model has been asked to take before."""
        with self._turn:
            known = {name_key(name) for name in self._journal.labels.names}
            for name in dict.fromkeys(map(clean_name, names)):
                if name_key(name) not in known:
                    self._journal.add({"name": name})

    def label(self, place: int, label: str | None, revision: int) -> None:
        """Take a label.

        Args:
            place: Of the photo.
            label: One of the names; None is none of them.
            revision: Of the state that the person saw.

        Raises:
            Refused: There is no such photo, or somebody has said something meanwhile.
            InputError: The label is none of the names.
        """
        with self._turn:
            self._demand(revision)
            self._journal.add({"image": self._name(place), "label": label})

    def undo(self, revision: int) -> None:
        """Take the last label back.

        Raises:
            Refused: There is none, or somebody has said something meanwhile.
        """
        with self._turn:
            self._demand(revision)
            if not self._journal.labels.history:
                raise Refused(409, "there is no label to take back")
            self._journal.add({"undo": self._journal.labels.history[-1][0]})

    def bring(self, content: bytes, view: Image.Image, label: str | None) -> None:
        """Keep a photo that somebody brought, and its label.

        Args:
            content: Of its file.
            view: What the model saw of it.
            label: As for `label`.
        """
        with self._turn:
            if label is not None and label not in self._journal.labels.names:
                raise InputError(f"the label {label!r} is none of the names: add it first")
            name = hashlib.sha256(content).hexdigest()[:16]
            self.places.brought.mkdir(parents=True, exist_ok=True)
            file = self.places.brought / name
            if not file.exists():
                write_atomically(file, content)
            key = f"{self.places.brought.name}/{name}"
            if key not in self._files:
                one = Photos(("photo",), (Sample(MemoryPicture(view), 0),))
                feature = clip_features(one, self._start.clip)
                self._features = torch.cat([self._features, feature])
                self._files[key] = file
                self.photos.append(key)
                self._logits = None if self._logits is None else self._asked()
            self._journal.add({"image": key, "label": label})

    # --- what is made of it; the model must be the caller's alone meanwhile ---

    def ask_again(self) -> None:
        """Ask the model about all photos, after names were added."""
        with self._turn:
            self._logits = self._asked()

    def learn(self) -> Classifier:
        """Learn from all labels that are names.

        Raises:
            Refused: The session began with a model that such a head would only make worse.
            InputError: There are no labels.
        """
        with self._turn:
            if self._start.method_name != REFERENCE and not isinstance(self._start.method, ClosedForm):
                raise Refused(
                    409,
                    f"{self._start.method_name} is not learned again in seconds: the labels are kept;"
                    " fit it again with them, or serve CLIP alone",
                )
            labelled = {
                photo: name
                for photo, name in self._journal.labels.current.items()
                if name is not None and photo in self._files
            }
            rows = [self.photos.index(photo) for photo in labelled]
            if not rows:
                raise InputError("there are no labels to learn from: label a photo first")
            learned = learn(self._start, self._features[rows], list(labelled.values()), method=self._method)
            self.learned, self._learned_from = learned, len(rows)
            self._logits = self._asked()
            return learned

    def save(self) -> Path:
        """Write the model that was learned.

        Raises:
            Refused: Nothing was learned yet.
            OSError: The folder may not be written.
        """
        with self._turn:
            if self.learned is None:
                raise Refused(409, "nothing was learned yet: label some photos, and learn")
            self.learned.save_pretrained(self.places.out)
            self.saved = self.places.out
            return self.places.out

    def labels(self) -> Labelled:
        """Return the label of each photo that has one."""
        with self._turn:
            labels = self._journal.labels
            current = {photo: one for photo, one in labels.current.items() if photo in self._files}
            return Labelled(tuple(labels.names), current)

    def files(self) -> dict[str, Path]:
        """Return where each photo is."""
        with self._turn:
            return dict(self._files)

    def take(self, found: Labelled) -> int:
        """Take labels of another program, of photos that have none; return how many.

        Paths need not begin where those of the photos do: their ends have to be the same, and of one photo.

        Raises:
            InputError: A label is of no photo here, or may be of several.
        """
        with self._turn:
            own = {photo: self._matching(photo) for photo in found.labels}
            self.add_names(found.names)
            before = self._journal.labels.current
            fresh = [(own[photo], one) for photo, one in found.labels.items() if own[photo] not in before]
            for photo, label in fresh:
                self._journal.add({"image": photo, "label": label})
            return len(fresh)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return tuple(self._journal.labels.names)

    def close(self) -> None:
        """Give the journal to whoever wants it next."""
        self._journal.close()

    # --- inside ---

    def _name(self, place: int) -> str:
        if not 0 <= place < len(self.photos):
            raise Refused(404, f"there is no photo {place}: there are {len(self.photos)}")
        return self.photos[place]

    def _matching(self, path: str) -> str:
        """Return the photo that a path of another program is of."""
        if path in self._files:
            return path
        parts = tuple(path.replace("\\", "/").strip("/").split("/"))
        for length in range(len(parts), 0, -1):
            found = [name for name in self.photos if tuple(name.split("/"))[-length:] == parts[-length:]]
            if len(found) == 1:
                return found[0]
            if found:
                raise InputError(f"{path} may be {found[0]} or {found[1]}: write more of its path")
        raise InputError(f"there are labels of {path}, which is none of {len(self.photos)} photos")

    def _demand(self, revision: int) -> None:
        if revision != self._journal.lines:
            raise Refused(409, "another page has said something meanwhile: look again")

    def _taken(self) -> torch.Tensor:
        labelled = self._journal.labels.current
        return torch.tensor([photo in labelled for photo in self.photos], dtype=torch.bool)

    def _guesses(self, place: int) -> list[dict[str, Any]]:
        if self._logits is None:
            return []
        found = self._logits[place].double().softmax(dim=-1)
        best = found.argsort(descending=True, stable=True)[:_GUESSES].tolist()
        names = self._journal.labels.names
        return [{"label": names[column], "probability": float(found[column])} for column in best]

    def _asked(self) -> Logits | None:
        names = self._journal.labels.names
        if not names or not self.photos:
            return None
        return answered(self.learned or self._zeroshot, self._features, names)

    def _encoded(self, watch: Callable[[int, int], None] | None) -> torch.Tensor:
        if not self.photos:
            return torch.empty(0, self._start.clip.config.embed)
        photos = Photos(("photo",), tuple(Sample(file, 0) for file in self._files.values()))
        return clip_features(photos, self._start.clip, self.places.features, watch)


def _found(places: SessionPaths) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Return the photos by name; and the name of each that cannot be read, and why."""
    found: dict[str, Path] = {}
    if places.photos is not None:
        if not places.photos.is_dir():
            raise InputError(f"--photos {places.photos} is no folder: give one with photos to label")
        inside = list_pictures(places.photos)
        tell_unread([places.photos])
        if not inside:
            raise InputError(f"--photos {places.photos} has no pictures: give a folder that has some")
        found = {path.relative_to(places.photos).as_posix(): path for path in inside}
    if places.brought.is_dir():
        kept = (path for path in sorted(places.brought.iterdir()) if not path.name.startswith("."))
        found |= {f"{places.brought.name}/{path.name}": path for path in kept}
    photos = Photos(("photo",), tuple(Sample(path, 0) for path in found.values()))
    good, bad = check_pictures(photos, "skip") if found else (photos, [])
    readable = {sample.picture for sample in good.samples}
    return {name: path for name, path in found.items() if path in readable}, bad


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((SHOWN, SHOWN))
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=90)
    return kept.getvalue()
