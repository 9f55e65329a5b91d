"""An exported model, which makes the same predictions as `Classifier.predict`."""

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
from foveate.readers import one_line
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
from foveate.run.texts import ClassTexts, ExportedTrust, TextReader
from foveate.trust.promises import calibration_for, least_probability, pictures_needed, prediction_sets

PRIOR = "prior"
"""Name of the graph of the unchanged image tower, for methods that change the tower."""


@dataclass(frozen=True)
class NameSpace:
    """Class names to choose from.

    Attributes:
        names: C names.
        trained: `[C]` whether a name was trained.
        texts: Class texts of the names.
    """

    names: list[str]
    trained: np.ndarray
    texts: ClassTexts

    @property
    def branch(self) -> Branch:
        """Label space of the names."""
        if self.trained.all():
            return "base"
        return "mixed" if self.trained.any() else "new"


@dataclass(frozen=True)
class RawAnswers:
    """Output of the graphs for a batch.

    Attributes:
        logits: `[B, C]` logits.
        trust: `[B]` trust of a gate; None if no gate was computed.
        clip: `[B, D]` raw features of the unchanged CLIP; None if they are not needed.
    """

    logits: np.ndarray
    trust: np.ndarray | None
    clip: np.ndarray | None


class Exported:
    """An exported model; `load` opens one. Several threads may predict with it.

    Args:
        folder: A folder that `foveate export` wrote.
        manifest: Its manifest.

    Attributes:
        folder: The folder.
        manifest: The manifest, with names that were added since.
        trust: Trust fitted on the shots; None if the model does not know its shots.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._sessions = _Sessions(folder)
        arrays = read_arrays(folder / ARRAYS)
        tokenizer = ClipTokenizer.from_file(folder / TOKENIZER, manifest.context)
        self._reader = TextReader(manifest.texts, tokenizer, arrays["vectors"], self._sessions.run)
        texts = ClassTexts(*(arrays[side] for side in ClassTexts._fields))
        self._texts = {name: texts.rows(row) for row, name in enumerate(self.names)}
        has_trust = TRUST in manifest.files
        self.trust = ExportedTrust.of(read_arrays(folder / TRUST)) if has_trust else None

    @property
    def names(self) -> list[str]:
        """Names that it chooses from by default: the trained and the added ones."""
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
        """Classify photos, as `Classifier.predict` does.

        Args:
            photos: Paths, PIL pictures, arrays, or bytes of picture files; or one of them.
            classes: Names to choose from besides those of the model.
            only: Choose from `classes` alone.
            risk: Also return the set of names that each photo may show; the right name is missing in this
                share of photos.
            abstain: Answer "none of these" for photos that are unlike all shots.
            batch_size: Photos in one pass.
            on_bad: Stop at a photo that cannot be read, or leave it out with a warning.
            watch: Called with the number of processed photos, and the number of all photos.

        Raises:
            InputError: A photo cannot be read, or names clash; or the model has too few shots, or no
                held-back shots, for the risk or for "none of these".
        """
        check("on_bad", on_bad, OnBad)
        self._demand(risk, abstain)
        batch_size = as_whole("batch_size", batch_size, 1)
        pictures, space = as_pictures(photos), self._ask_about(classes, only=only)
        with_clip = self.trust is not None and (abstain or not self._sessions.has(PRIOR))
        answers: list[Prediction] = []
        for done, names, images in self._batches(pictures, batch_size, on_bad):
            raw = self._answer(images, space, with_clip=with_clip)
            answers += self._predictions(names, raw, space, risk, abstain=abstain)
            if watch:
                watch(done, len(pictures))
        return answers

    def _demand(self, risk: float | None, abstain: bool) -> None:
        """Refuse a risk or refusals that the model cannot promise, before any prediction."""
        if risk is not None:
            pictures_needed(risk)
        if self.trust is not None:
            self.trust.demand(risk, refusals=abstain)
        elif risk is not None or abstain:
            raise InputError(
                "this export does not know the model's shots (the model was imported, or made by an older"
                " foveate), so it can give no risk and no 'none of these': fit and export again"
            )

    def _predictions(
        self, names: Sequence[str], raw: RawAnswers, space: NameSpace, risk: float | None, *, abstain: bool
    ) -> list[Prediction]:
        """Return the predictions for the pictures with these file names."""
        calibration, trust = self._calibration(space.branch), self.trust
        probabilities = np.exp(_log_softmax(raw.logits / calibration.temperature))
        calibrated = calibration.as_right(probabilities)
        novelty = None if trust is None or raw.clip is None else self._novelty(trust, raw, space)
        sets = None
        if trust is not None and risk is not None:
            sets = prediction_sets(probabilities, least_probability(trust.truths.tolist(), risk))
        refused = trust.refused(novelty) if trust is not None and novelty is not None and abstain else None
        return predictions(
            names,
            space.names,
            calibrated,
            space.branch,
            calibrated=self.manifest.calibrated,
            trust=raw.trust,
            novelty=novelty,
            sets=sets,
            refused=refused,
        )

    def _novelty(self, trust: ExportedTrust, raw: RawAnswers, space: NameSpace) -> np.ndarray:
        """Return the novelty `[B]` of pictures: compared with the shots or, for a new name, with its text."""
        clip, predicted = raw.clip, raw.logits.argmax(axis=1)
        assert clip is not None
        rows = {name: row for row, name in enumerate(self.manifest.names)}
        known_rows = np.array([rows[name] for name in space.names if name in rows])
        is_new = ~space.trained[predicted]
        novelty = np.zeros(len(predicted), np.float32)
        if not is_new.all():
            novelty[~is_new] = trust.novelty(clip[~is_new], known_rows)
        if is_new.any():
            texts = space.texts.reference[predicted[is_new]]
            novelty[is_new] = trust.novelty_of_names(clip[is_new], texts)
        return novelty

    def ask_about(self, classes: Sequence[str] | None = None, *, only: bool = False) -> Branch:
        """Return the label space of names; the model does not change.

        Args:
            classes: See `predict`.
            only: See `predict`.

        Raises:
            InputError: Names clash, or the model cannot use one.
        """
        return self._ask_about(classes, only=only).branch

    def add_classes(self, names: Sequence[str]) -> None:
        """Add names to those that the model chooses from; nothing is trained.

        Args:
            names: Names to add; existing ones are unchanged.

        Raises:
            InputError: A name is too long or clashes, or the model cannot use new names.
        """
        space = self._ask_about(names, only=False)
        added = [name for name in space.names if name not in self.manifest.names]
        self._texts |= {name: space.texts.rows(row) for row, name in enumerate(space.names)}
        self.manifest = replace(self.manifest, added=added)

    def save(self, folder: str | Path) -> None:
        """Write a copy of the model, with the added names.

        Args:
            folder: A new or empty folder, or the model's own folder, which is then updated.

        Raises:
            InputError: The folder is another one and not empty.
        """
        folder = home_of(folder)
        if folder.resolve() != self.folder.resolve():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise InputError(f"{folder} is there already: choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.manifest.files:
                shutil.copyfile(self.folder / name, folder / name)
        (folder / MANIFEST).unlink(missing_ok=True)
        class_texts = [self._texts[name] for name in self.names]
        texts = {side: np.stack([getattr(row, side) for row in class_texts]) for side in ClassTexts._fields}
        write_arrays(folder / ARRAYS, read_arrays(self.folder / ARRAYS) | texts)
        write_manifest(folder, self.manifest)

    # --- names ---

    def _ask_about(self, classes: Sequence[str] | None, *, only: bool) -> NameSpace:
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Iterable)):
            raise InputError(f"class names are {classes!r}: give a list of names, not one string")
        existing = {name_key(name): name for name in self.names}
        requested = [clean_name(name) for name in classes or []]
        spelled = {name_key(name): existing.get(name_key(name), name) for name in requested}
        names = [] if only else self.names
        names = [*names, *(name for name in spelled.values() if name not in names)]
        if not names:
            raise InputError("there are no names to choose from: give classes")
        self._reader.tokenizer.demand_distinct(names)
        for message in unusual(requested):
            warnings.warn(message, stacklevel=3)
        unread = [name for name in names if name not in self._texts]
        texts_by_name = dict(self._texts)
        if unread:
            self._reader.check(unread)
            new_texts = self._reader.read(unread)
            texts_by_name |= {name: new_texts.rows(row) for row, name in enumerate(unread)}
        trained = np.array([name in self.manifest.names for name in names])
        if self.manifest.closed and not trained.all():
            first, *more = [name for name, is_trained in zip(names, trained, strict=True) if not is_trained]
            suffix = f" and {len(more)} more" if more else ""
            warnings.warn(
                f"it has learned nothing of {first!r}{suffix}: of these it says what zero-shot CLIP says",
                stacklevel=3,
            )
        texts = ClassTexts(*map(np.stack, zip(*(texts_by_name[name] for name in names), strict=True)))
        return NameSpace(names, trained, texts)

    # --- pictures ---

    def _batches(
        self, pictures: Sequence[Path | LazyPicture], batch_size: int, on_bad: OnBad
    ) -> Iterator[tuple[int, list[str], np.ndarray]]:
        """Yield the number of processed pictures, and names and pixels `[B, 3, S, S]` of readable ones."""
        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(pictures), batch_size):
                chunk = pictures[start : start + batch_size]
                with plain_errors():
                    results = list(pool.map(self._view if on_bad == "error" else self._view_or_error, chunk))
                pairs = [(source_name(source), view) for source, view in zip(chunk, results, strict=True)]
                readable = [(name, view) for name, view in pairs if isinstance(view, np.ndarray)]
                for view in results:
                    if isinstance(view, BadPicture):
                        warnings.warn(f"left out {view.name}: {view.reason}", stacklevel=3)
                if readable:
                    names, views = zip(*readable, strict=True)
                    yield start + len(chunk), list(names), np.stack(views)

    def _view(self, source: Path | LazyPicture) -> np.ndarray | BadPicture:
        """Return the input of the image tower for a picture."""
        picture, manifest = open_picture(source), self.manifest
        square, _ = eval_view(picture.size, manifest.image_size).apply(picture)
        return normalised(square, manifest.mean, manifest.std)

    def _view_or_error(self, source: Path | LazyPicture) -> np.ndarray | BadPicture:
        try:
            return self._view(source)
        except BadPicture as error:
            return error

    # --- answers ---

    def _calibration(self, branch: Branch) -> Calibration:
        calibration, plain = self.manifest.calibration, self.manifest.plain_temperature
        return calibration_for(branch, calibration, plain, held_back=self.manifest.calibrated)

    def _answer(self, images: np.ndarray, space: NameSpace, *, with_clip: bool) -> RawAnswers:
        """Run the graphs; `with_clip` also returns the features of the unchanged CLIP."""
        manifest, run = self.manifest, self._sessions.run
        head = {"base": "base", "new": manifest.new, "mixed": manifest.mixed}[space.branch]
        (image,) = run("image", {"images": images})
        clip, asks_prior = image[:1], head != "base" and bool(manifest.texts.prior_sentences)
        if (asks_prior or with_clip) and self._sessions.has(PRIOR):
            (clip,) = run(PRIOR, {"images": images})
        clip_features = clip[0] if with_clip else None
        if manifest.closed:
            return RawAnswers(self._known(image, space), None, clip_features)
        text = space.texts.text
        if manifest.texts.kind == "shifted":
            text = self._reader.shifted(space.names, run("shift", {"image": image})[0])
        inputs = {"image": image, "text": text}
        if head == "base":
            return RawAnswers(run("base", inputs)[0], None, clip_features)
        logits, *trust = run("new", inputs | {"clip": clip, "prior": space.texts.prior})
        if head == "route":
            (base,) = run("base", inputs)
            logits = _route(base, logits, space.trained, manifest.route_weight)
        return RawAnswers(logits, trust[0] if trust else None, clip_features)

    def _known(self, image: np.ndarray, space: NameSpace) -> np.ndarray:
        """Return the learned logits of trained names, and CLIP's logits of the others."""
        run, names = self._sessions.run, self.manifest.names
        (clip,) = run("new", {"image": image, "text": space.texts.text})
        if not space.trained.any():
            return clip
        trained_texts = np.stack([self._texts[name].text for name in names])
        (learned,) = run("base", {"image": image, "text": trained_texts})
        base = clip.copy()
        columns = [
            names.index(n) for n, is_trained in zip(space.names, space.trained, strict=True) if is_trained
        ]
        base[:, space.trained] = learned[:, columns]
        return base if space.trained.all() else _route(base, clip, space.trained, 1.0)


def load(folder: str | Path) -> Exported:
    """Open an exported model.

    Args:
        folder: A folder that `foveate export` wrote.

    Raises:
        InputError: The folder is no export, a file is missing or damaged, or onnxruntime is not installed.
    """
    folder = home_of(folder)
    return Exported(folder, read_manifest(folder))


class _Sessions:
    """The graphs of a folder; each is opened at its first use."""

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
        input_names = [node.name for node in session.get_inputs()]  # a linear probe reads no class texts
        return session.run(None, {name: inputs[name] for name in input_names})

    def _open(self, graph: str) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # frees the memory of a batch
        path = self._folder / f"{graph}.onnx"
        try:
            return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has its own exception classes
            raise InputError(
                f"{path} cannot be opened ({one_line(error, 200)}): export the model again"
            ) from error


def _route(base: np.ndarray, new: np.ndarray, trained: np.ndarray, weight: float) -> np.ndarray:
    """Return logits over trained and new names together, as `foveate.methods.guidance.route` does."""
    new_trained = new[:, trained]
    highest = new_trained.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(new_trained - highest).sum(axis=1, keepdims=True)) + highest
    routed = new.copy()
    routed[:, trained] = _log_softmax(weight * base[:, trained] + (1 - weight) * new_trained) + log_sum
    return routed


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
