"""An exported model: answers about pictures as `Classifier.predict` gives them."""

import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from foveate.prediction import Branch, Calibration, Prediction, predictions
from foveate.run.folder import (
    ARRAYS,
    MANIFEST,
    TOKENIZER,
    TRUST,
    Manifest,
    read_arrays,
    read_manifest,
    write_arrays,
    write_manifest,
)
from foveate.run.texts import ClassTexts, TextReader
from foveate.run.trust import ExportedTrust
from foveate.trust.promises import calibration_for, pictures_needed

PRIOR = "prior"
"""The graph of the untouched image tower, beside one that a method has changed."""


@dataclass(frozen=True)
class NameSpace:
    """Names to choose from.

    Attributes:
        names: C of them.
        trained: `[C]` which were trained on.
        texts: Of them.
    """

    names: list[str]
    trained: np.ndarray
    texts: ClassTexts

    @property
    def branch(self) -> Branch:
        """Which label space they are."""
        if self.trained.all():
            return "base"
        return "mixed" if self.trained.any() else "new"


@dataclass(frozen=True)
class RawAnswers:
    """What the graphs say of a batch.

    Attributes:
        logits: `[B, C]`.
        trust: `[B]`; None where no gate was asked.
        clip: `[B, D]` raw features of the untouched CLIP; None where nobody needs them.
    """

    logits: np.ndarray
    trust: np.ndarray | None
    clip: np.ndarray | None


class Exported:
    """An exported model; `load` opens one. Several threads may predict with it.

    Args:
        folder: That `foveate export` wrote.
        manifest: What it says.

    Attributes:
        folder: It.
        manifest: It, with the names that were added since.
        trust: What it knows of its answers; None where the model knows nothing of its shots.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._sessions = _Sessions(folder)
        arrays = read_arrays(folder / ARRAYS)
        tokenizer = ClipTokenizer.from_file(folder / TOKENIZER, manifest.context)
        self._reader = TextReader(manifest.texts, tokenizer, arrays["vectors"], self._sessions.run)
        texts = ClassTexts(*(arrays[side] for side in ClassTexts._fields))
        self._texts = {name: texts.rows(row) for row, name in enumerate(self.names)}
        known = TRUST in manifest.files
        self.trust = ExportedTrust.of(read_arrays(folder / TRUST)) if known else None

    @property
    def names(self) -> list[str]:
        """The names it chooses from by default: those it was trained on, and those added."""
        return [*self.manifest.names, *self.manifest.added]

    def predict(  # noqa: PLR0913  (all but the first by name)
        self,
        photos: Any,
        classes: Sequence[str] | None = None,
        *,
        only: bool = False,
        risk: float | None = None,
        abstain: bool = False,
        batch_size: int = 64,
        on_bad: OnBad = "error",
        watch: Callable[[int, int], None] | None = None,
    ) -> list[Prediction]:
        """Name what photos show, as `Classifier.predict` does.

        Args:
            photos: Paths, PIL pictures, arrays, or bytes of picture files; or one of them.
            classes: Names to choose from besides those of the model.
            only: Choose from `classes` alone.
            risk: Give each photo the names that it may be; in this share of photos the right one is missing.
            abstain: Say "none of these" of photos that are unlike all shots.
            batch_size: Photos a pass.
            on_bad: Stop at a photo that cannot be read, or leave it out with a warning.
            watch: Called with the number of photos that are done, and with that of all.

        Raises:
            InputError: A photo cannot be read, or names clash; or the model has too few shots, or held none
                back, for the risk or for "none of these".
        """
        check("on_bad", on_bad, OnBad)
        self._demand(risk, abstain)
        batch_size = as_whole("batch_size", batch_size, 1)
        pictures, asked = as_pictures(photos), self._ask_about(classes, only=only)
        with_clip = self.trust is not None and (abstain or not self._sessions.has(PRIOR))
        found: list[Prediction] = []
        for done, names, images in self._batches(pictures, batch_size, on_bad):
            said = self._answer(images, asked, with_clip=with_clip)
            found += self._told(names, said, asked, risk, abstain=abstain)
            if watch:
                watch(done, len(pictures))
        return found

    def _demand(self, risk: float | None, abstain: bool) -> None:
        """Refuse what the model cannot promise before any answer is given."""
        if risk is not None:
            pictures_needed(risk)
        if self.trust is not None:
            self.trust.demand(risk, refusals=abstain)
        elif risk is not None or abstain:
            raise InputError(
                "this export does not know the model's shots (the model was imported, or made by an older"
                " foveate), so it can give no risk and no 'none of these': fit and export again"
            )

    def _told(
        self,
        names: Sequence[str],
        said: RawAnswers,
        asked: NameSpace,
        risk: float | None,
        *,
        abstain: bool,
    ) -> list[Prediction]:
        """Return the predictions for pictures of these names."""
        calibration, trust = self._calibration(asked.branch), self.trust
        likely = np.exp(_log_softmax(said.logits / calibration.temperature))
        p = calibration.as_right(likely)
        novelty = None if trust is None or said.clip is None else self._novelty(trust, said, asked)
        sets = None if trust is None or risk is None else trust.sets(likely, risk)
        refused = trust.refused(novelty) if trust is not None and novelty is not None and abstain else None
        return predictions(
            names,
            asked.names,
            p,
            asked.branch,
            calibrated=self.manifest.calibrated,
            trust=said.trust,
            novelty=novelty,
            sets=sets,
            refused=refused,
        )

    def _novelty(self, trust: ExportedTrust, said: RawAnswers, asked: NameSpace) -> np.ndarray:
        """Return `[B]` how unusual pictures are: beside the shots, or, of a new name, beside its text."""
        clip, given = said.clip, said.logits.argmax(axis=1)
        assert clip is not None
        rows = {name: row for row, name in enumerate(self.manifest.names)}
        known = np.array([rows[name] for name in asked.names if name in rows])
        is_new = ~asked.trained[given]
        found = np.zeros(len(given), np.float32)
        if not is_new.all():
            found[~is_new] = trust.novelty(clip[~is_new], known)
        if is_new.any():
            texts = asked.texts.reference[given[is_new]]
            found[is_new] = trust.novelty_of_names(clip[is_new], texts)
        return found

    def ask_about(self, classes: Sequence[str] | None = None, *, only: bool = False) -> Branch:
        """Return the label space of names; nothing is kept.

        Args:
            classes: See `predict`.
            only: See `predict`.

        Raises:
            InputError: Names clash, or one cannot be read or answered about.
        """
        return self._ask_about(classes, only=only).branch

    def add_classes(self, names: Sequence[str]) -> None:
        """Let the model choose from more names, besides its own, from now on; nothing is trained.

        Args:
            names: One that it has already stays as it is.

        Raises:
            InputError: A name cannot be read, or the model takes no new ones.
        """
        asked = self._ask_about(names, only=False)
        added = [name for name in asked.names if name not in self.manifest.names]
        self._texts |= {name: asked.texts.rows(row) for row, name in enumerate(asked.names)}
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
        texts = {side: np.stack([getattr(one, side) for one in kept]) for side in ClassTexts._fields}
        write_arrays(folder / ARRAYS, read_arrays(self.folder / ARRAYS) | texts)
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
            read = self._reader.read(others)
            made |= {name: read.rows(row) for row, name in enumerate(others)}
        trained = np.array([name in self.manifest.names for name in names])
        if self.manifest.closed and not trained.all():
            first, *more = [name for name, was in zip(names, trained, strict=True) if not was]
            several = f" and {len(more)} more" if more else ""
            warnings.warn(
                f"it has learned nothing of {first!r}{several}: of these it says what zero-shot CLIP says",
                stacklevel=3,
            )
        texts = ClassTexts(*map(np.stack, zip(*(made[name] for name in names), strict=True)))
        return NameSpace(names, trained, texts)

    # --- pictures ---

    def _batches(
        self, pictures: Sequence[Path | LazyPicture], batch_size: int, on_bad: OnBad
    ) -> Iterator[tuple[int, list[str], np.ndarray]]:
        """Yield how many pictures were looked at, and names and `[B, 3, S, S]` of those that can be read."""
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
                    names, views = zip(*good, strict=True)
                    yield start + len(some), list(names), np.stack(views)

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

    def _calibration(self, branch: Branch) -> Calibration:
        own, plain = self.manifest.calibration, self.manifest.plain_temperature
        return calibration_for(branch, own, plain, held_back=self.manifest.calibrated)

    def _answer(self, images: np.ndarray, asked: NameSpace, *, with_clip: bool) -> RawAnswers:
        """Return what the graphs say; `with_clip` what the untouched CLIP sees too."""
        manifest, run = self.manifest, self._sessions.run
        head = {"base": "base", "new": manifest.new, "mixed": manifest.mixed}[asked.branch]
        (image,) = run("image", {"images": images})
        clip, asks_prior = image[:1], head != "base" and bool(manifest.texts.prior_sentences)
        if (asks_prior or with_clip) and self._sessions.has(PRIOR):
            (clip,) = run(PRIOR, {"images": images})
        seen = clip[0] if with_clip else None
        if manifest.closed:
            return RawAnswers(self._known(image, asked), None, seen)
        text = asked.texts.text
        if manifest.texts.kind == "shifted":
            text = self._reader.shifted(asked.names, run("shift", {"image": image})[0])
        both = {"image": image, "text": text}
        if head == "base":
            return RawAnswers(run("base", both)[0], None, seen)
        logits, *trust = run("new", both | {"clip": clip, "prior": asked.texts.prior})
        if head == "route":
            (base,) = run("base", both)
            logits = _route(base, logits, asked.trained, manifest.route_weight)
        return RawAnswers(logits, trust[0] if trust else None, seen)

    def _known(self, image: np.ndarray, asked: NameSpace) -> np.ndarray:
        """Return learned logits of trained names and CLIP's of the others."""
        run, names = self._sessions.run, self.manifest.names
        (clip,) = run("new", {"image": image, "text": asked.texts.text})
        if not asked.trained.any():
            return clip
        known = np.stack([self._texts[name].text for name in names])
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
