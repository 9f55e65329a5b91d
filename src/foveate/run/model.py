"""An exported model: answers about pictures as `Classifier.predict` gives them."""

import shutil
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from foveate.clip.tokenizer import ClipTokenizer
from foveate.configs import as_whole, check
from foveate.data.given import as_pictures
from foveate.data.naming import clean_name, name_key, unusual
from foveate.data.views import eval_view, normalised
from foveate.errors import InputError
from foveate.files import home_of
from foveate.foreground.opening import BadPicture, LazyPicture, plain_errors, source_name
from foveate.foreground.options import OnBad
from foveate.foreground.pictures import open_picture
from foveate.prediction import Branch, Prediction
from foveate.run.folder import (
    MANIFEST,
    TOKENIZER,
    Manifest,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from foveate.run.texts import TextReader


@dataclass(frozen=True)
class NameSpace:
    """Names to choose from.

    Attributes:
        names: C of them.
        trained: `[C]` which were trained on.
        text: `[C, D]` class texts.
        prior: `[C, D]` those of CLIP's prior.
    """

    names: list[str]
    trained: np.ndarray
    text: np.ndarray
    prior: np.ndarray

    @property
    def branch(self) -> Branch:
        """Which label space they are."""
        if self.trained.all():
            return "base"
        return "mixed" if self.trained.any() else "new"


class Exported:
    """An exported model; `load` opens one. Several threads may predict with it.

    Args:
        folder: That `foveate export` wrote.
        manifest: What it says.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._sessions = _Sessions(folder)
        arrays = read_arrays(folder)
        tokenizer = ClipTokenizer.from_file(folder / TOKENIZER, manifest.context)
        self._reader = TextReader(manifest.texts, tokenizer, arrays["vectors"], self._sessions.run)
        rows = zip(self.names, arrays["text"], arrays["prior"], strict=True)
        self._texts = {name: (text, prior) for name, text, prior in rows}

    @property
    def names(self) -> list[str]:
        """The names it chooses from by default: those it was trained on, and those added."""
        return [*self.manifest.names, *self.manifest.added]

    def predict(
        self,
        photos: Any,
        classes: Sequence[str] | None = None,
        *,
        only: bool = False,
        batch_size: int = 64,
        on_bad: OnBad = "error",
    ) -> list[Prediction]:
        """Name what photos show, as `Classifier.predict` does.

        Args:
            photos: Paths, PIL pictures, arrays, or bytes of picture files; or one of them.
            classes: Names to choose from besides those of the model.
            only: Choose from `classes` alone.
            batch_size: Photos a pass.
            on_bad: Stop at a photo that cannot be read, or leave it out with a warning.

        Raises:
            InputError: A photo cannot be read, or names clash.
        """
        check("on_bad", on_bad, OnBad)
        batch_size = as_whole("batch_size", batch_size, 1)
        pictures, asked = as_pictures(photos), self._ask_about(classes, only=only)
        found: list[Prediction] = []
        for names, images in self._batches(pictures, batch_size, on_bad):
            logits, trust = self._answer(images, asked)
            p = np.exp(_log_softmax(logits / self._temperature(asked.branch)))
            found += [
                Prediction(
                    photo=name,
                    label=asked.names[int(own.argmax())],
                    probability=float(own.max()),
                    scores=dict(zip(asked.names, own.tolist(), strict=True)),
                    trust=None if trust is None else float(trust[i]),
                    branch=asked.branch,
                    doubt=1 - float(own.max()) if self.manifest.calibrated else None,
                )
                for i, (name, own) in enumerate(zip(names, p, strict=True))
            ]
        return found

    def add_classes(self, names: Sequence[str]) -> None:
        """Let the model choose from more names, besides its own, from now on; nothing is trained.

        Args:
            names: One that it has already stays as it is.

        Raises:
            InputError: A name cannot be read, or the model takes no new ones.
        """
        asked = self._ask_about(names, only=False)
        added = [name for name in asked.names if name not in self.manifest.names]
        for place, name in enumerate(asked.names):
            self._texts[name] = asked.text[place], asked.prior[place]
        self.manifest = replace(self.manifest, added=added)

    def save(self, folder: str | Path) -> None:
        """Write a copy of the model, with the names that were added.

        Args:
            folder: A new one, or the model's own, which is then changed.

        Raises:
            InputError: There is something in it already.
        """
        folder = home_of(folder)
        if folder.resolve() != self.folder.resolve():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{folder} is there already: choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.manifest.files:
                shutil.copyfile(self.folder / name, folder / name)
        (folder / MANIFEST).unlink(missing_ok=True)
        kept = [self._texts[name] for name in self.names]
        arrays = read_arrays(self.folder) | {
            "text": np.stack([text for text, _ in kept]),
            "prior": np.stack([prior for _, prior in kept]),
        }
        write_arrays(folder, arrays)
        write_manifest(folder, self.manifest)

    # --- names ---

    def _ask_about(self, classes: Sequence[str] | None, *, only: bool) -> NameSpace:
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Iterable)):
            raise InputError(f"class names are {classes!r}: give a list of names, not one string")
        own = {name_key(name): name for name in self.names}
        wanted = [clean_name(name) for name in classes or []]
        asked = {name_key(name): own.get(name_key(name), name) for name in wanted}
        names = [] if only else self.names
        names = [*names, *(name for name in asked.values() if name not in names)]
        if not names:
            raise InputError("there are no names to choose from: give classes")
        self._reader.tokenizer.demand_distinct(names)
        for note in unusual(wanted):
            warnings.warn(note, stacklevel=3)
        others = [name for name in names if name not in self._texts]
        made = dict(self._texts)
        if others:
            self._reader.check(others)
            made |= zip(
                others,
                zip(self._reader.read(others), self._reader.prior(others), strict=True),
                strict=True,
            )
        trained = np.array([name in self.manifest.names for name in names])
        if self.manifest.closed and not trained.all():
            first, *more = [name for name, was in zip(names, trained, strict=True) if not was]
            several = f" and {len(more)} more" if more else ""
            warnings.warn(
                f"it has learned nothing of {first!r}{several}: of these it says what zero-shot CLIP says",
                stacklevel=3,
            )
        text, prior = (np.stack([made[name][side] for name in names]) for side in (0, 1))
        return NameSpace(names, trained, text, prior)

    # --- pictures ---

    def _batches(
        self, pictures: Sequence[Path | LazyPicture], batch_size: int, on_bad: OnBad
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield names and `[B, 3, S, S]` of the pictures that can be read."""
        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(pictures), batch_size):
                some = pictures[start : start + batch_size]
                with plain_errors():
                    seen = list(pool.map(self._see if on_bad == "error" else self._see_if_good, some))
                both = [(source_name(one), view) for one, view in zip(some, seen, strict=True)]
                good = [(name, view) for name, view in both if isinstance(view, np.ndarray)]
                for view in seen:
                    if isinstance(view, BadPicture):
                        warnings.warn(f"left out {view.name}: {view.reason}", stacklevel=3)
                if good:
                    yield [name for name, _ in good], np.stack([view for _, view in good])

    def _see(self, source: Path | LazyPicture) -> np.ndarray | BadPicture:
        """Return a picture as the image tower takes it."""
        picture, manifest = open_picture(source), self.manifest
        square, _ = eval_view(picture.size, manifest.image_size).apply(picture)
        return normalised(square, manifest.mean, manifest.std)

    def _see_if_good(self, source: Path | LazyPicture) -> np.ndarray | BadPicture:
        try:
            return self._see(source)
        except BadPicture as error:
            return error

    # --- answers ---

    def _temperature(self, branch: Branch) -> float:
        own = self.manifest.temperature
        return own if branch == "base" else max(own, self.manifest.plain_temperature)

    def _answer(self, images: np.ndarray, asked: NameSpace) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `[B, C]` logits, and `[B]` trusts where a gate was asked."""
        manifest, run, branch = self.manifest, self._sessions.run, asked.branch
        (image,) = run("image", {"images": images})
        if manifest.closed:
            return self._known(image, asked), None
        text = asked.text
        if manifest.texts.kind == "shifted":
            text = self._reader.shifted(asked.names, run("shift", {"image": image})[0])
        both = {"image": image, "text": text}
        head = {"base": "base", "new": manifest.new, "mixed": manifest.mixed}[branch]
        if head == "base":
            return run("base", both)[0], None
        asks_prior = manifest.texts.prior_sentence is not None
        if asks_prior:
            tower = self._sessions.has("prior")
            clip = run("prior", {"images": images})[0] if tower else image[:1]
            both |= {"clip": clip, "prior": asked.prior}
        logits, *trust = run("new", both)
        if head == "route":
            (base,) = run("base", {"image": image, "text": text})
            logits = _route(base, logits, asked.trained, manifest.route_weight)
        return logits, trust[0] if trust else None

    def _known(self, image: np.ndarray, asked: NameSpace) -> np.ndarray:
        """Return learned logits of trained names and CLIP's of the others."""
        run, names = self._sessions.run, self.manifest.names
        (clip,) = run("new", {"image": image, "text": asked.text})
        if not asked.trained.any():
            return clip
        known = np.stack([self._texts[name][0] for name in names])
        (own,) = run("base", {"image": image, "text": known})
        base = clip.copy()
        columns = [names.index(n) for n, was in zip(asked.names, asked.trained, strict=True) if was]
        base[:, asked.trained] = own[:, columns]
        return base if asked.trained.all() else _route(base, clip, asked.trained, 1.0)


def load(folder: str | Path) -> Exported:
    """Open an exported model.

    Args:
        folder: That `foveate export` wrote.

    Raises:
        InputError: It is none, a file is missing or damaged, or onnxruntime is not installed.
    """
    folder = home_of(folder)
    return Exported(folder, read_manifest(folder))


class _Sessions:
    """The graphs of a folder, each opened when it is first asked."""

    def __init__(self, folder: Path):
        self._folder, self._opened = folder, dict[str, Any]()
        self._lock = threading.Lock()
        try:
            self._runtime: Any = import_module("onnxruntime")
        except ImportError as error:
            raise InputError(
                "onnxruntime is not installed, which runs exported models: pip install 'foveate[export]'"
            ) from error

    def has(self, graph: str) -> bool:
        return (self._folder / f"{graph}.onnx").exists()

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with self._lock:
            if graph not in self._opened:
                self._opened[graph] = self._open(graph)
        session = self._opened[graph]
        read = [one.name for one in session.get_inputs()]  # a linear probe reads no class texts
        return session.run(None, {name: inputs[name] for name in read})

    def _open(self, graph: str) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # what a batch took is given back
        path = self._folder / f"{graph}.onnx"
        try:
            return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds
            why = " ".join(str(error).split())[:200]
            raise InputError(f"{path} cannot be opened ({why}): export the model again") from error


def _route(base: np.ndarray, new: np.ndarray, trained: np.ndarray, weight: float) -> np.ndarray:
    """Return logits over trained and new names together, as `foveate.methods.guidance.route` does."""
    own = new[:, trained]
    highest = own.max(axis=1, keepdims=True)
    together = np.log(np.exp(own - highest).sum(axis=1, keepdims=True)) + highest
    routed = new.copy()
    routed[:, trained] = _log_softmax(weight * base[:, trained] + (1 - weight) * own) + together
    return routed


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    low = logits - logits.max(axis=-1, keepdims=True)
    return low - np.log(np.exp(low).sum(axis=-1, keepdims=True))
