"""A labelling session: photos with their features, labels, the learned model, and the next photo to label."""

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
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.pictures import open_picture
from foveate.methods.capabilities import ClosedForm
from foveate.methods.registry import REFERENCE
from foveate.serve.journal import LabelJournal
from foveate.serve.learning import HEAD, answered, learn, most_useful
from foveate.serve.limits import Refused
from foveate.train.banking import clip_features
from foveate.types import Logits

SHOWN = 1024  # pixels of a photo's longer side on the page
_MAX_GUESSES = 5


@dataclass(frozen=True)
class SessionPaths:
    """Paths of a session.

    Attributes:
        labels: File of the journal.
        photos: Folder of photos to label; None if photos are only uploaded.
        out: Output folder for the learned model.
    """

    labels: Path
    photos: Path | None
    out: Path

    @property
    def uploads(self) -> Path:
        """Folder of uploaded photos."""
        return self.labels.with_name(f"{self.labels.stem}-photos")

    @property
    def features(self) -> Path:
        """Folder of the photos' features from the frozen tower."""
        return self.labels.with_name(f"{self.labels.stem}-features")


class Session:
    """One journal and its photos, shared by all open pages.

    Args:
        start: The initial classifier; learned heads use its towers.
        paths: Paths of the session.
        method: Name of the head that is learned.
        watch: Called with the number of encoded photos, and the number of all photos.

    Attributes:
        photos: Names of the photos: paths relative to the folder of photos, or "<upload folder>/<hash>".
        left_out: Name and reason of each photo that cannot be read.
        learned: The classifier that was learned last; None before the first.

    Raises:
        InputError: The folder has no photos, or the journal is in use by another session or invalid.
    """

    def __init__(
        self,
        start: Classifier,
        paths: SessionPaths,
        *,
        method: str = HEAD,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        self._start, self.paths, self._method = start, paths, method
        self._zeroshot = start if start.method_name == REFERENCE else start.beside(REFERENCE)
        self._turn = RLock()
        self.learned: Classifier | None = None
        self._learned_from = 0
        self.saved: Path | None = None
        self._journal = LabelJournal(paths.labels)
        try:
            self._files, self.left_out = _photo_files(paths)
            self.photos = list(self._files)
            self._features = self._encode(watch)
        except BaseException:
            self._journal.close()
            raise
        self._logits: Logits | None = None

    # --- state for the page ---

    def state(self) -> dict[str, Any]:
        """Return the state that the page shows, as JSON values."""
        with self._turn:
            labels = self._journal.labels
            current = {photo: label for photo, label in labels.current.items() if photo in self._files}
            following = most_useful(self._features, self._logits, self._taken()) if self.photos else None
            return {
                "revision": self._journal.lines,
                "names": list(labels.names),
                "photos": len(self.photos),
                "labelled": len(current),
                "none": sum(label is None for label in current.values()),
                "left_out": len(self.left_out),
                "undo": labels.history[-1][0] if labels.history else None,
                "learned": {"from": self._learned_from, "method": self._method} if self.learned else None,
                "saved": str(self.saved) if self.saved else None,
                "next": None
                if following is None
                else {"photo": following, "guesses": self._guesses(following)},
            }

    def shown(self, index: int) -> bytes:
        """Return a photo as a JPEG for the page.

        Raises:
            Refused: There is no such photo.
            InputError: It cannot be read any more.
        """
        return _jpeg(open_picture(self._files[self._name(index)]))

    def file(self, index: int) -> Path:
        """Return the path of a photo."""
        return self._files[self._name(index)]

    # --- names and labels ---

    def add_names(self, names: Sequence[str]) -> None:
        """Add class names; the caller has checked that the model can use them."""
        with self._turn:
            known = {name_key(name) for name in self._journal.labels.names}
            for name in dict.fromkeys(map(clean_name, names)):
                if name_key(name) not in known:
                    self._journal.add({"name": name})

    def label(self, index: int, label: str | None, revision: int) -> None:
        """Record a label.

        Args:
            index: Index of the photo.
            label: One of the class names; None for "none of the names".
            revision: Revision of the state that the person saw.

        Raises:
            Refused: There is no such photo, or the state has changed since this revision.
            InputError: The label is none of the names.
        """
        with self._turn:
            self._demand(revision)
            self._journal.add({"image": self._name(index), "label": label})

    def undo(self, revision: int) -> None:
        """Take the last label back.

        Raises:
            Refused: There is no label, or the state has changed since this revision.
        """
        with self._turn:
            self._demand(revision)
            if not self._journal.labels.history:
                raise Refused(409, "there is no label to take back")
            self._journal.add({"undo": self._journal.labels.history[-1][0]})

    def bring(self, content: bytes, view: Image.Image, label: str | None) -> None:
        """Store an uploaded photo and its label.

        Args:
            content: Bytes of its file.
            view: View that the model makes of it.
            label: As for `label`.
        """
        with self._turn:
            if label is not None and label not in self._journal.labels.names:
                raise InputError(f"the label {label!r} is none of the names: add it first")
            name = hashlib.sha256(content).hexdigest()[:16]
            self.paths.uploads.mkdir(parents=True, exist_ok=True)
            file = self.paths.uploads / name
            if not file.exists():
                write_atomically(file, content)
            key = f"{self.paths.uploads.name}/{name}"
            if key not in self._files:
                photos = Photos(("photo",), (Sample(MemoryPicture(view), 0),))
                feature = clip_features(photos, self._start.clip)
                self._features = torch.cat([self._features, feature])
                self._files[key] = file
                self.photos.append(key)
                self._logits = None if self._logits is None else self._compute_logits()
            self._journal.add({"image": key, "label": label})

    # --- learning; no other thread may use the model meanwhile ---

    def ask_again(self) -> None:
        """Compute the predictions for all photos anew, after names were added."""
        with self._turn:
            self._logits = self._compute_logits()

    def learn(self) -> Classifier:
        """Learn from all labels that are class names.

        Raises:
            Refused: The initial model is tuned by training; a head solved in seconds would be worse.
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
            self._logits = self._compute_logits()
            return learned

    def save(self) -> Path:
        """Save the learned model and return its folder.

        Raises:
            Refused: Nothing was learned yet.
            OSError: The folder cannot be written.
        """
        with self._turn:
            if self.learned is None:
                raise Refused(409, "nothing was learned yet: label some photos, and learn")
            self.learned.save_pretrained(self.paths.out)
            self.saved = self.paths.out
            return self.paths.out

    def labels(self) -> Labelled:
        """Return the class names, and the label of each labelled photo."""
        with self._turn:
            labels = self._journal.labels
            current = {photo: label for photo, label in labels.current.items() if photo in self._files}
            return Labelled(tuple(labels.names), current)

    def files(self) -> dict[str, Path]:
        """Return the path of each photo, by name."""
        with self._turn:
            return dict(self._files)

    def take(self, imported: Labelled) -> int:
        """Import labels of another program for photos that have none yet; return their number.

        The paths may have another root: the last parts of a path must match those of exactly one photo.

        Raises:
            InputError: A path matches no photo, or several.
        """
        with self._turn:
            matches = {photo: self._match(photo) for photo in imported.labels}
            self.add_names(imported.names)
            labelled = self._journal.labels.current
            new = [
                (matches[photo], class_name)
                for photo, class_name in imported.labels.items()
                if matches[photo] not in labelled
            ]
            for photo, label in new:
                self._journal.add({"image": photo, "label": label})
            return len(new)

    @property
    def names(self) -> tuple[str, ...]:
        """The class names."""
        return tuple(self._journal.labels.names)

    def close(self) -> None:
        """Close the journal and unlock it."""
        self._journal.close()

    # --- private ---

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self.photos):
            raise Refused(404, f"there is no photo {index}: there are {len(self.photos)}")
        return self.photos[index]

    def _match(self, path: str) -> str:
        """Return the name of the photo that another program's path belongs to."""
        if path in self._files:
            return path
        parts = tuple(path.replace("\\", "/").strip("/").split("/"))
        for length in range(len(parts), 0, -1):
            matches = [name for name in self.photos if tuple(name.split("/"))[-length:] == parts[-length:]]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InputError(f"{path} may be {matches[0]} or {matches[1]}: write more of its path")
        raise InputError(f"there are labels of {path}, which is none of {len(self.photos)} photos")

    def _demand(self, revision: int) -> None:
        if revision != self._journal.lines:
            raise Refused(409, "another page has said something meanwhile: look again")

    def _taken(self) -> torch.Tensor:
        labelled = self._journal.labels.current
        return torch.tensor([photo in labelled for photo in self.photos], dtype=torch.bool)

    def _guesses(self, index: int) -> list[dict[str, Any]]:
        if self._logits is None:
            return []
        probabilities = self._logits[index].double().softmax(dim=-1)
        columns = probabilities.argsort(descending=True, stable=True)[:_MAX_GUESSES].tolist()
        names = self._journal.labels.names
        return [{"label": names[column], "probability": float(probabilities[column])} for column in columns]

    def _compute_logits(self) -> Logits | None:
        names = self._journal.labels.names
        if not names or not self.photos:
            return None
        return answered(self.learned or self._zeroshot, self._features, names)

    def _encode(self, watch: Callable[[int, int], None] | None) -> torch.Tensor:
        if not self.photos:
            return torch.empty(0, self._start.clip.config.embed)
        photos = Photos(("photo",), tuple(Sample(file, 0) for file in self._files.values()))
        return clip_features(photos, self._start.clip, self.paths.features, watch)


def _photo_files(paths: SessionPaths) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Return the paths of the photos by name, and (name, reason) of each that cannot be read."""
    files: dict[str, Path] = {}
    if paths.photos is not None:
        if not paths.photos.is_dir():
            raise InputError(f"--photos {paths.photos} is no folder: give one with photos to label")
        pictures = list_pictures(paths.photos)
        tell_unread([paths.photos])
        if not pictures:
            raise InputError(f"--photos {paths.photos} has no pictures: give a folder that has some")
        files = {path.relative_to(paths.photos).as_posix(): path for path in pictures}
    if paths.uploads.is_dir():
        uploads = (path for path in sorted(paths.uploads.iterdir()) if not path.name.startswith("."))
        files |= {f"{paths.uploads.name}/{path.name}": path for path in uploads}
    photos = Photos(("photo",), tuple(Sample(path, 0) for path in files.values()))
    usable, bad = check_pictures(photos, "skip") if files else (photos, [])
    readable = {sample.picture for sample in usable.samples}
    return {name: path for name, path in files.items() if path in readable}, bad


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((SHOWN, SHOWN))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
