"""The class `Classifier`: fit, predict, evaluate, save and load an adapted CLIP."""

import tempfile
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from foveate.auto.choice import Choice
from foveate.auto.choosing import choose
from foveate.clip.config import EMBEDDED
from foveate.clip.model import Clip
from foveate.clip.weights import demand_device, load_clip, split_source
from foveate.configs import as_whole, check
from foveate.data.checks import check_pictures
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.naming import clean_name, name_key, unusual
from foveate.data.samples import LazyPicture, Photos, Sample, as_pictures, labelled
from foveate.data.sources import Source, load_photos, with_masks
from foveate.errors import InputError
from foveate.evaluate.answers import Answers, ask, label_space, split_of, splits_of
from foveate.evaluate.answers import Split as Split
from foveate.evaluate.encoding import keep_clip
from foveate.evaluate.metrics import mean
from foveate.files import home_of, write_atomically
from foveate.foreground.opening import plain_errors
from foveate.foreground.options import OnBad
from foveate.methods.base import Method, Wrapper
from foveate.methods.capabilities import Diagnostics, RegionEncoder, capability, walk
from foveate.methods.config import AUTO, is_auto
from foveate.methods.registry import REFERENCE, Settings, build, configure, parts, plugins
from foveate.official.reading import official_backbone, read_official
from foveate.prediction import Prediction as Prediction
from foveate.prediction import predictions
from foveate.train.card import PLACE, SplitScore, model_card, read_scores, write_scores
from foveate.train.checkpoint import CARD, CONFIG, SCORES, TENSORS, ModelConfig, load_model, save_model
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.folder import alone_in, drop_bank, open_run, refuse_folder
from foveate.train.journal import Reporter
from foveate.train.parallel import ProcessGroup
from foveate.train.run import Run, draw, load, resolve, train
from foveate.train.sharing import download, upload
from foveate.train.shots import Chosen, without_masks
from foveate.train.together import demand_shareable
from foveate.train.tracking import demand_tracker, tracked
from foveate.trust.folds import demand_folds, fit_trust
from foveate.trust.promises import pictures_needed
from foveate.trust.trust import Trust, read_trust
from foveate.types import Branch

Photo = str | Path | Image.Image | LazyPicture | bytes | np.ndarray | torch.Tensor
IN_MEMORY = "a CLIP in memory"


class Classifier:
    """An image classifier from a few photos.

        classifier = Classifier().fit("photos/", masks="masks/", shots=16)
        classifier.predict(["new.jpg"])

    Several threads may call `predict` and `evaluate` of one classifier; a lock runs them one by one.

    Args:
        method: A method, e.g. "zeroshot" or "coop", or a plug-in over one: "fvgpt+coop". "auto": each `fit`
            chooses the method that suits its pictures best; `choice` gives the reason.
        clip: Hub id, folder or file of CLIP weights, or a loaded `Clip`. "tiny" is the small CLIP inside
            foveate; it was trained on drawn shapes only.
        settings: Changes to the default settings of each part: {"coop": {"tokens": 16}}.
        device: Device of the towers.
        dtype: Precision of the frozen towers, a dtype or a name such as "auto", which is bfloat16 where the
            processor has it and float16 on CUDA; learned tensors are always float32.

    Raises:
        InputError: The method, a setting or the CLIP does not exist.
    """

    def __init__(
        self,
        method: str = "fvgpt+coop",
        clip: str | Path | Clip = "tiny",
        *,
        settings: Settings | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
    ):
        self._auto = isinstance(method, str) and is_auto(method)
        if self._auto:
            RunConfig(method=AUTO, settings=settings or {})  # it refuses settings
        start = REFERENCE if self._auto else method  # until a fit chooses
        self.method_name = "+".join(parts(start))
        self.settings = {name: asdict(config) for name, config in configure(start, settings).items()}
        self._given: Settings = settings or {}
        self.clip = clip if isinstance(clip, Clip) else load_clip(clip, dtype=dtype, device=device)
        self.clip_source = IN_MEMORY if isinstance(clip, Clip) else _portable(clip)
        self.method = build(self.method_name, self.clip, self.settings)
        self.config: ModelConfig | None = None
        self.trust: Trust | None = None
        self.choice: Choice | None = None
        self.scores: tuple[SplitScore, ...] = ()
        self._params: dict[str, Any] = {"method": method, "clip": clip, "settings": settings}
        self._params |= {"device": device, "dtype": dtype}
        self._turn = _Turn()

    def fit(
        self,
        data: Source | Sequence[Photo] | None = None,
        labels: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        *,
        out: str | Path | None = None,
        reporter: Reporter | None = None,
        process_group: ProcessGroup | None = None,
        **options: Any,
    ) -> "Classifier":
        """Draw a few pictures of each class and train the method on them, stage by stage.

        Args:
            data: Folder per class, CSV, JSONL, CoOp split JSON, Hugging Face data set, or `Photos`; or with
                labels, pictures as `predict` takes them.
            labels: One per picture, as in scikit-learn; None if the data has them.
            out: Run folder; an interrupted run resumes from there. None keeps nothing on disk.
            reporter: Receives steps and other progress.
            process_group: Processes that all call this with the same arguments, to share each batch. Only
                the first writes files, warns and reports.
            options: Fields of `foveate.train.config.RunConfig`: masks, shots, seed, classes, backbone,
                recipe, bank and so on. Settings of the method are those of this classifier.

        Raises:
            InputError: An argument or the data cannot be used; no incomplete file is written.
        """
        source = cast("Source | None", data) if labels is None else labelled(data, labels)[0]
        run_options = {
            name: str(value) if isinstance(value, Path) else value for name, value in options.items()
        }
        has_path = isinstance(source, str | Path)
        config = RunConfig.of(
            {**run_options, "photos": str(source) if has_path else None, **self._own_options()},
            "Classifier.fit",
        )
        return self.train(
            config, None if has_path else source, out, Context(reporter or Reporter(), process_group)
        )

    def train(
        self,
        config: RunConfig,
        data: Source | None = None,
        out: str | Path | None = None,
        context: Context | None = None,
    ) -> "Classifier":
        """Train as `config` describes, or resume that run; `fit` builds `config` from its arguments.

        Args:
            config: Description of the run, with the method, settings and towers of this classifier.
            data: Pictures that are loaded already; they replace `config.photos`.
            out: Run folder, as for `fit`.
            context: The reporter and the process group of the run.

        Raises:
            InputError: As for `fit`.
        """
        context = context or Context()
        folder = None if out is None else home_of(out)
        if folder is None and config.log_answers:
            raise InputError("log_answers writes into the run's log: say where with out=")
        demand_tracker(config.track, folder)
        if folder and context.first:
            refuse_folder(folder)
        if data is not None:
            config = replace(config, photos=None)  # the data has no path to load it from again
        config = replace(config, **self._own_towers())
        self.choice = self._choose(config, data, folder, context) if config.is_auto else None
        config = self.choice.config(config) if self.choice else config
        run = resolve(config, self.clip, official_backbone(config, self.clip))
        with plain_errors():
            chosen = draw(run, load(run.config, data), context)
        self._demand_fit(run, chosen, context)
        with alone_in(folder) if folder and context.first else nullcontext():
            identity = run.identity(chosen)
            open_folder = partial(open_run, folder, identity, run.config, chosen) if folder else None
            finished = bool(open_folder and context.everywhere(open_folder))
            with tracked(run.config.track, context, folder, identity) as context:
                if folder and finished:
                    return self._finished(folder, run, chosen, context)
                for note in (*chosen.notes, *run.notes(chosen)) if context.first else ():
                    warnings.warn(note, stacklevel=3)
                self.method, self.scores = train(run, chosen, folder, context), ()
                self.config = replace(run.model(chosen), chosen=self.choice.words if self.choice else "")
                self.settings = self.config.settings
                if context.first:
                    self.trust = fit_trust(run, chosen, self.method, folder)
                if folder and context.first:
                    self.save_pretrained(folder)
                    drop_bank(folder)
        return self

    def _own_options(self) -> dict[str, Any]:
        method = AUTO if self._auto else self.method_name
        return {"method": method, "settings": {} if self._auto else self._given, **self._own_towers()}

    def _choose(
        self, config: RunConfig, data: Source | None, folder: Path | None, context: Context
    ) -> Choice:
        """Choose a method, and become an untrained classifier with it."""
        if context.process_group:
            raise InputError(
                "--method auto compares methods in one process: choose without torchrun, then train the"
                " chosen method with it"
            )
        with alone_in(folder) if folder else nullcontext(), plain_errors():
            choice = choose(config, self.clip, data, folder, context)
        self.method_name, self._given = choice.candidate.method, choice.candidate.settings
        self.settings = {
            part: asdict(part_config)
            for part, part_config in configure(self.method_name, self._given).items()
        }
        return choice

    def _own_towers(self) -> dict[str, Any]:
        return {"clip": str(self.clip_source), "dtype": self.precision}

    def _demand_fit(self, run: Run, chosen: Chosen, context: Context) -> None:
        """Check class names and the process group before anything is written or trained.

        The tensors learned before stay unchanged until then.
        """
        config, names = run.config, chosen.photos.names
        if run.backbone:
            run.backbone.build(self.clip, names, config.template)
        untrained = build(config.method, self.clip, config.settings, config.seed)
        untrained.set_classes(names, config.template)
        if config.folds:
            demand_folds(run, chosen)
        if context.process_group:
            demand_shareable(context.process_group, untrained, run.identity(chosen))

    def _finished(self, folder: Path, run: Run, chosen: Chosen, context: Context) -> "Classifier":
        """Load the model of a run that has finished before; fit its trust, if that was not done then."""
        self.settings = {part: asdict(config) for part, config in run.config.configured.items()}
        if context.first:
            drop_bank(folder)  # still there if the run was stopped just after it finished
        with context.lent(folder / CONFIG, folder / TENSORS) as copies:
            self._set_tuned(*load_model((copies[0] or folder / CONFIG).parent))
        if context.first:
            self.trust, self.scores = read_trust(folder, len(self.method.names)), read_scores(folder)
            if run.config.folds and not (self.trust and self.trust.knows_doubt):
                self.trust = fit_trust(run, chosen, self.method)
                self.save_pretrained(folder)
        return self

    def predict(  # noqa: PLR0913  (all but the first by name)
        self,
        photos: Sequence[Photo] | Photo,
        classes: Sequence[str] | None = None,
        *,
        only: bool = False,
        test_masks: str | Path | Sequence[Photo] | None = None,
        risk: float | None = None,
        abstain: bool = False,
        batch_size: int = 64,
        on_bad: OnBad = "error",
        reporter: Reporter | None = None,
    ) -> list[Prediction]:
        """Predict the class of each photo.

        Args:
            photos: Paths, PIL pictures, arrays, tensors, or bytes of picture files; or one of them.
            classes: Names to choose from besides the trained ones; the classifier need not have seen them.
                Another spelling of a trained name ("Barn_Owl") is the trained name.
            only: Choose from `classes` alone.
            test_masks: For a method that sees a region of each picture, such as "falip+coop": a folder of
                masks, as for `fit`, or one mask per photo. Its host predicts photos without a mask.
            risk: Give each photo a set of possible names; the right name is missing from this share of the
                sets, e.g. 0.1.
            abstain: Answer "none of these" for photos that are unlike all shots; 5 % of the photos like the
                shots are refused too.
            batch_size: Photos per forward pass.
            on_bad: Stop at a photo that cannot be read, or leave it out with a warning.
            reporter: Receives progress.

        Raises:
            InputError: A photo cannot be read, names clash, masks do not fit, or the method sees no region;
                or the model has too few shots, or none held out, for the risk or for "none of these".
        """
        check("on_bad", on_bad, OnBad)
        trust = self._trust_for(risk, abstain)
        batch_size = as_whole("batch_size", batch_size, 1)
        test_photos = Photos(("photo",), tuple(Sample(picture, 0) for picture in as_pictures(photos)))
        if test_masks is not None:
            self.demand_regions()
            with plain_errors():
                test_photos = with_masks(test_photos, test_masks)
        if on_bad == "skip":
            test_photos, unreadable = check_pictures(test_photos, "skip")
            for name, reason in unreadable:
                warnings.warn(f"left out {name}: {reason}", stacklevel=2)
        samples = test_photos.samples
        watch = partial(reporter.count, "photos") if reporter else None
        with self._turn.lock:
            branch = self.ask_about(classes, only=only)
            if not samples:
                return []
            names = self.method.names
            self._warn_unmasked(test_photos)
            pictures = self._pictures(replace(test_photos, names=names))
            needs_clip = trust is not None and (abstain or self.method.sees_as_clip)
            with plain_errors():
                answers = ask(
                    self.method,
                    pictures,
                    branch,
                    batch_size=batch_size,
                    with_clip=needs_clip,
                    with_region=test_masks is not None,
                    watch=watch,
                )
            novelty = None if trust is None else self._novelty(trust, answers)
        if trust is not None:
            answers = replace(answers, calibration=trust.calibration_for(branch))
        sets = None if trust is None or risk is None else trust.sets(answers.logits, branch, risk)
        refused = trust.refused(novelty) if trust is not None and novelty is not None and abstain else None
        return predictions(
            [sample.name for sample in samples],
            names,
            answers.probabilities.numpy(),
            branch,
            calibrated=trust is not None and trust.knows_doubt,
            trust=None if answers.trust is None else answers.trust.numpy(),
            novelty=None if novelty is None else novelty.numpy(),
            sets=sets,
            refused=None if refused is None else refused.numpy(),
        )

    @property
    def precision(self) -> str:
        """Name of the precision of the towers, e.g. "float32"."""
        return self.clip.precision

    # --- scikit-learn's interface ---

    @property
    def classes_(self) -> np.ndarray:
        """The trained names, in the order of `predict_proba`."""
        return np.array(self._tuned_config().names)

    def predict_proba(self, photos: Sequence[Photo] | Photo) -> np.ndarray:
        """Return `[N, C]` probabilities of the trained names, in the order of `classes_`.

        Raises:
            InputError: As for `predict`.
        """
        names = self._tuned_config().names
        return np.array([[prediction.scores[name] for name in names] for prediction in self.predict(photos)])

    def score(
        self, photos: Sequence[Photo] | Photo, labels: Sequence[Any] | np.ndarray | torch.Tensor
    ) -> float:
        """Return the accuracy, in [0, 1].

        Raises:
            InputError: As for `predict`, or there is not one label per picture.
        """
        labelled_photos, _ = labelled(photos, labels)
        answers = self.predict([sample.picture for sample in labelled_photos.samples])
        names = [name_key(labelled_photos.names[sample.label]) for sample in labelled_photos.samples]
        return mean(
            [float(name_key(answer.label) == name) for answer, name in zip(answers, names, strict=True)]
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor; `deep` changes nothing."""
        return dict(self._params)

    def set_params(self, **params: Any) -> "Classifier":
        """Become an untrained classifier with other arguments.

        Raises:
            InputError: There is no such argument, or as for the class.
        """
        unknown = [name for name in params if name not in self._params]
        if unknown:
            raise InputError(f"a classifier has no {unknown[0]!r}; it has {', '.join(self._params)}")
        merged: dict[str, Any] = {**self._params, **params}
        if {"clip", "device", "dtype"}.isdisjoint(params):  # the towers need not be loaded again
            without_clip = {name: value for name, value in merged.items() if name != "clip"}
            vars(self).update(
                vars(Classifier(clip=self.clip, **without_clip)) | {"clip_source": self.clip_source}
            )
            self._params = merged
        else:
            vars(self).update(vars(Classifier(**merged)))
        return self

    def __sklearn_clone__(self) -> "Classifier":
        """Return an untrained classifier with the same arguments, on the same towers."""
        clone = self.beside(self._params["method"], self._params["settings"])
        clone._params = self._params
        return clone

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that it is a classifier."""
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=ClassifierTags(),
        )

    @property
    def sees_regions(self) -> bool:
        """Whether a part of the method uses a region of each test picture, given by a mask."""
        return capability(self.method, RegionEncoder) is not None

    def demand_regions(self) -> None:
        """Refuse test masks if no part of the method uses them.

        Raises:
            InputError: No part uses them; the message names a method that does.
        """
        if not self.sees_regions:
            plugin = next(name for name, kind in plugins().items() if issubclass(kind, RegionEncoder))
            raise InputError(
                f"{self.method_name} does not look at test masks: leave them out, or fit a method that does,"
                f" such as {plugin}+{self.method_name}"
            )

    def _warn_unmasked(self, photos: Photos) -> None:
        """Warn about pictures without a mask, if the method uses one."""
        unmasked = sum(sample.mask is None for sample in photos.samples)
        if unmasked and self.sees_regions:
            host = "+".join(parts(self.method_name)[1:])
            warnings.warn(
                f"{unmasked} of {len(photos)} pictures have no test mask: {self.method_name} answers about"
                f" them as {host} does; --test-masks gives masks",
                stacklevel=3,
            )

    def _trust_for(self, risk: float | None, abstain: bool) -> Trust | None:
        """Return the trust of the model; refuse a risk or an abstention that the trust does not support."""
        trust = self.trust
        if risk is not None:
            pictures_needed(risk)
        if trust is None and (risk is not None or abstain):
            raise InputError(
                "this model does not know its shots (it was imported, or made by an older foveate), so it can"
                " give no risk and no 'none of these': fit again"
            )
        if trust is not None:
            trust.demand(risk, refusals=abstain)
        return trust

    def _novelty(self, trust: Trust, answers: Answers) -> torch.Tensor | None:
        """Return how unusual pictures are: relative to the shots, or to the text of a name without shots."""
        if answers.clip is None:
            return None
        row_of = {name: row for row, name in enumerate(self._trained_names())}
        trained_rows = torch.tensor(
            [row_of[name] for name in answers.names if name in row_of], dtype=torch.long
        )
        predicted = answers.logits.argmax(dim=-1)
        is_new = torch.tensor([name not in row_of for name in answers.names])[predicted]
        novelty = torch.zeros(len(predicted))
        if not is_new.all():
            novelty[~is_new] = trust.support.novelty(answers.clip[~is_new], trained_rows)
        if is_new.any():
            reference = build(REFERENCE, self.clip)
            reference.set_classes(answers.names, self.method.template)
            with torch.no_grad():
                texts = reference.text_features().cpu()
            novelty[is_new] = trust.support.novelty_of_names(answers.clip[is_new], texts[predicted[is_new]])
        return novelty

    def evaluate(
        self,
        photos: Source,
        split: Split = "all",
        *,
        shift: bool = False,
        test_masks: str | Path | bool = False,
        bank: str | Path | None = None,
        reporter: Reporter | None = None,
    ) -> Answers:
        """Predict labelled pictures and return logits with labels.

        Args:
            photos: Test pictures, or a source that `load_photos` accepts.
            split: "base" tests pictures of trained classes among the trained names. "new" tests the
                other pictures among the other names. "all" tests every picture among all names.
            shift: Compute answers for foregrounds too, for the foreground shift index; needs masks.
            test_masks: For a method that sees a region of each picture, such as "falip+coop": a folder of
                masks, or True for the masks of the pictures. Its host predicts pictures without a mask.
            bank: Folder of kept features. Features of the unchanged CLIP are computed once for all methods,
                splits and runs that use the folder.
            reporter: Receives progress.

        Raises:
            InputError: The data has no picture of that split, or the split does not exist; or there are no
                masks, or the method sees no region.
        """
        check("split", split, Split)
        self._demand_fitted()
        has_region = test_masks is not False
        if has_region:
            self.demand_regions()
        with plain_errors():
            mask_folder = None if isinstance(test_masks, bool) else test_masks
            is_loaded = isinstance(photos, Photos) and mask_folder is None
            test_photos = cast("Photos", photos) if is_loaded else load_photos(photos, masks=mask_folder)
        watch = partial(reporter.count, split) if reporter else None
        with self._turn.lock:
            pictures, branch = self.ask_split(
                test_photos if shift or has_region else without_masks(test_photos), split
            )
            if shift and not pictures.has_masks:
                raise InputError(
                    "the shift index needs masks of the test pictures: give their folder with --masks"
                )
            self._warn_unmasked(pictures.photos if has_region else without_masks(pictures.photos))
            store_of = None if bank is None else keep_clip(bank)
            with plain_errors():
                answers = ask(
                    self.method,
                    pictures,
                    branch,
                    with_foreground=shift,
                    with_region=has_region,
                    store_of=store_of,
                    watch=watch,
                )
        return replace(answers, calibration=self.trust.calibration_for(branch)) if self.trust else answers

    def ask_about(self, classes: Sequence[str] | None = None, *, only: bool = False) -> Branch:
        """Set the class names, as `predict` does; return their label space.

        If the caller then uses `method` directly, no other thread may use the classifier.

        Args:
            classes: See `predict`.
            only: See `predict`.

        Raises:
            InputError: Class names clash, or there is no class name.
        """
        self._demand_fitted()
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Iterable)):
            raise InputError(f"class names are {classes!r}: give a list of names, not one string")
        classes = [clean_name(name) for name in classes or []]
        for note in unusual(classes or []):
            warnings.warn(note, stacklevel=3)
        with self._turn.lock:
            return self._ask_about([] if only else self._trained_names(), classes or [])

    def ask_split(self, photos: Photos, split: Split) -> tuple[PictureSet, Branch]:
        """Set the class names of a split; return its pictures, as methods take them, and its label space.

        If the caller then uses `method` directly, no other thread may use the classifier.

        Args:
            photos: Labelled pictures.
            split: See `evaluate`.

        Raises:
            InputError: The data has no picture of that split.
        """
        known = self._trained_names()
        chosen = split_of(photos, known, split)
        pictures, new = self._pictures(chosen), [name for name in chosen.names if name not in known]
        with self._turn.lock:
            branch = self._ask_about(known if split != "new" else [], new)
        return pictures, branch

    def splits(self, photos: Photos) -> list[Split]:
        """Return the splits that these pictures allow: "base"; "new" and "all" if there are other classes.

        A model that accepts no new names, such as CoOp with one context per class, allows "base" only.
        """
        return splits_of(photos, self._trained_names(), takes_new_names=self.method.takes_new_names)

    def simpler(self) -> list["Classifier"]:
        """Return the baselines of this classifier: the methods inside it, then zero-shot CLIP."""
        config, inner = self._tuned_config(), self.method
        baselines: list[Classifier] = []
        while isinstance(inner, Wrapper) and not inner.joint:
            inner = inner.host
            baselines.append(self._beside("+".join(parts(self.method_name)[len(baselines) + 1 :]), inner))
        if baselines or self.method_name != REFERENCE:
            reference = build(REFERENCE, self.clip)
            reference.set_classes(config.names, config.template)
            baselines.append(self._beside(REFERENCE, reference))
        return baselines

    def beside(self, method: str, settings: Settings | None = None) -> "Classifier":
        """Return an untrained classifier that shares these towers; nothing is loaded again.

        Raises:
            InputError: The method or a setting does not exist.
        """
        classifier = Classifier(method, self.clip, settings=settings)
        classifier.clip_source = self.clip_source
        return classifier

    def _beside(self, name: str, method: Method) -> "Classifier":
        classifier = self.beside(name)
        classifier.method, classifier.config = method, replace(self._tuned_config(), method=name)
        classifier._turn = self._turn  # both share the towers, so both share the lock
        return classifier

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and a model card, with trust and scores if known."""
        folder = home_of(folder)
        tensors = None if self.trust is None else self.trust.tensors()
        (folder / SCORES).unlink(missing_ok=True)
        save_model(folder, self._tuned_config(), self.method.learned(), tensors, self._card())
        if self.scores:
            write_scores(folder, self.scores, self._card())

    def keep_scores(self, scores: Sequence[SplitScore], folder: str | Path) -> None:
        """Write scores into the folder of this saved model; its card shows them.

        Args:
            scores: They replace earlier scores of the same splits and data sets.
            folder: Folder of the model.
        """
        by_split = {(score.data, score.split): score for score in (*self.scores, *scores)}
        self.scores = tuple(by_split.values())
        write_scores(home_of(folder), self.scores, self._card())

    def _card(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.method.learned().values())
        return model_card(
            self._tuned_config(), numbers, "" if self.trust is None else self.trust.words, self.scores
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        clip: str | Path | Clip | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> "Classifier":
        """Load a tuned model from a folder or the hub.

        Args:
            source: Folder of a finished run or of `save_pretrained`, or a hub id "owner/name".
            clip: CLIP weights, if they are now in another place than during training.
            device: Device of the towers.
            dtype: Precision of the frozen towers; None takes the precision of the training.

        Raises:
            InputError: The tuned model is missing or damaged, or the towers differ from those of the
                training.
        """
        demand_device(device)
        local = home_of(source)
        folder = local if local.exists() else download(str(source))
        config, tensors = load_model(folder)
        if clip is None and config.clip == IN_MEMORY:
            raise InputError(
                f"{source} was trained on {IN_MEMORY}: say which it is with --clip (clip= in Python)"
            )
        dtype = dtype or config.precision
        try:
            self = cls(
                config.method, clip or config.clip, settings=config.settings, device=device, dtype=dtype
            )
        except InputError as error:
            if clip is not None:
                raise
            raise InputError(
                f"{folder / CONFIG}: {error} (if the CLIP is elsewhere now, say where with --clip)"
            ) from error
        if self.precision == config.precision and self.clip.fingerprint() != config.fingerprint:
            raise InputError(
                f"{source} was trained on {config.clip} with weights {config.fingerprint}, but "
                f"{self.clip_source} has {self.clip.fingerprint()}: give the right ones with --clip"
            )
        try:
            self._set_tuned(config, tensors)
        except InputError as error:
            raise InputError(
                f"{folder / TENSORS}: {error}; fit again, or bring it back from a copy"
            ) from error
        self.trust, self.scores = read_trust(folder, len(config.names)), read_scores(folder)
        return self

    @classmethod
    def from_official(  # noqa: PLR0913  (all but the first two by name)
        cls,
        checkpoint: str | Path | Mapping[str, object],
        clip: str | Path | Clip,
        *,
        method: str | None = None,
        names: Sequence[str] | None = None,
        template: str | None = None,
        settings: Settings | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> "Classifier":
        """Load a checkpoint of the authors' code of a method; code inside the file is not executed.

        Args:
            checkpoint: Dassl's `model.pth.tar-N`, its folder, or a mapping from tensor names to tensors.
            clip: The CLIP that the checkpoint was tuned on, as for the class.
            method: Method of the checkpoint, e.g. "promptsrc"; None detects it from the tensor names.
            names: Names of the trained classes in label order; None reads them from the checkpoint.
            template: The data set's sentence with one `{}`; None reads it from the checkpoint, if
                present.
            settings: Settings that the checkpoint does not hold: {"mmrl": {"alpha": 0.5}}.
            device: Device of the towers.
            dtype: Precision of the frozen towers.

        Raises:
            InputError: The checkpoint is damaged, its method is unknown, it belongs to another CLIP, or
                class names are missing.
        """
        towers = clip if isinstance(clip, Clip) else load_clip(clip, dtype=dtype, device=device)
        official = read_official(
            checkpoint, towers, method=method, names=names, template=template, settings=settings
        )
        for note in official.notes:
            warnings.warn(note, stacklevel=2)
        self = cls(official.method, towers, settings=official.settings)
        self.clip_source = IN_MEMORY if isinstance(clip, Clip) else _portable(clip)
        config = ModelConfig(
            method=official.method,
            settings=self.settings,
            clip=self.clip_source,
            fingerprint=towers.fingerprint(),
            precision=self.precision,
            names=official.names,
            template=official.template,
            shots=0,
            imported=official.title,
            version=version("foveate"),
        )
        return self._set_tuned(config, official.learned)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload the tuned model to the hub; return its URL.

        Raises:
            InputError: The hub refuses the upload (no login, no network).
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            card = Path(folder, CARD)
            write_atomically(card, card.read_text(encoding="utf-8").replace(PLACE, repository))
            return upload(Path(folder), repository, private=private)

    def _set_tuned(self, config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> "Classifier":
        """Set the method and the config of a tuned model that was loaded."""
        method = build(config.method, self.clip, self.settings, config.seed)
        method.load_learned(tensors)
        method.set_classes(config.names, config.template)
        self.method = method.eval()
        self.config = replace(config, settings=self.settings)  # JSON has no tuples
        return self

    def _demand_fitted(self) -> None:
        if self.config is None and self.method_name != REFERENCE:
            self._tuned_config()

    def _tuned_config(self) -> ModelConfig:
        if self.config is None:
            raise InputError("this classifier has learned nothing yet: call fit, or from_pretrained")
        return self.config

    def _trained_names(self) -> list[str]:
        return list(self.config.names) if self.config else []

    def _ask_about(self, trained: Sequence[str], extra: Sequence[str]) -> Branch:
        """Set the class names; return their label space."""
        known = self._trained_names()
        trained_by_key = {name_key(name): name for name in known}
        requested = {name_key(name): trained_by_key.get(name_key(name), clean_name(name)) for name in extra}
        names = [*trained, *(name for name in requested.values() if name not in trained)]
        if not names:
            raise InputError("there are no names to choose from: fit first, or give classes")
        known_names = set(known)
        was_trained = [name in known_names for name in names]
        method, template = self.method, self.config.template if self.config else None
        if (method.names, method.template, method.trained) != (tuple(names), template, tuple(was_trained)):
            method.set_classes(names, template, known)
            disclaimers = [part.disclaimers() for part in walk(method) if isinstance(part, Diagnostics)]
            for note in chain.from_iterable(disclaimers):
                warnings.warn(note, stacklevel=4)
        return label_space(method)

    def _pictures(self, photos: Photos) -> PictureSet:
        return eval_pictures(photos, self.clip.config)


class _Turn:
    """Lock around setting a method's classes and using them. A copy gets a new lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type["_Turn"], tuple[()]]:
        return _Turn, ()


def _portable(clip: str | Path) -> str:
    """Return the CLIP source to store in a checkpoint: paths become absolute, names stay unchanged."""
    path, activation = split_source(clip)
    return f"{path.absolute()}{activation}" if str(clip) not in EMBEDDED and path.exists() else str(clip)
