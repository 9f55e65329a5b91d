"""Trials: a candidate learns from some of the shots and predicts the others, within a time budget.

Finished trials are stored in the run folder, so that a stopped run does not repeat them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.feature_store import FeatureStore
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.capabilities import walk
from foveate.methods.config import Tried
from foveate.methods.registry import REFERENCE, backbones, build, parts, plugins
from foveate.seeds import stream
from foveate.train.config import RunConfig, digest
from foveate.train.journal import Reporter
from foveate.train.run import Run
from foveate.train.shots import Chosen
from foveate.trust.folds import PartTrainer, fold_turns
from foveate.types import Labels, Logits

# Divisions of the shots: folds, and draws of fewer shots for the learning curve.


FOLDS = 4
SHARES, DRAWS = (0.25, 0.5), 4
"""Shares of the shots, and draws of each, for the learning curve; the folds are its last point."""


@dataclass(frozen=True)
class Part:
    """A division of the shots.

    Attributes:
        train: Indices of the shots to learn from.
        test: Indices of the shots to predict.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]

    @classmethod
    def without(cls, out: Tensor) -> "Part":
        """Return the division that leaves out the shots of a mask `[N]`."""
        return cls(tuple((~out).nonzero()[:, 0].tolist()), tuple(out.nonzero()[:, 0].tolist()))


def folds(labels: Labels) -> list[Part]:
    """Return divisions that leave out each shot once, but never all of a class."""
    return [Part.without(out) for out in fold_turns(labels, FOLDS) if out.any()]


def draws(labels: Labels, seed: int) -> list[list[Part]]:
    """Return divisions that learn from fewer shots, one list for each share; each class is drawn separately.

    A share is left out if it has no more pictures than a smaller share, or as many as the folds.
    """
    counts = torch.bincount(labels)
    limit, divisions = counts.max().item() - -(-counts.max().item() // FOLDS), list[list[Part]]()
    previous = 0
    for share in SHARES:
        size = max(1, int(counts.max().item() * share))
        if previous < size < limit:
            divisions.append([_draw(labels, counts, share, seed, turn) for turn in range(DRAWS)])
            previous = size
    return divisions


def _draw(labels: Labels, counts: Tensor, share: float, seed: int, turn: int) -> Part:
    held_out = torch.ones(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts.tolist()):
        rows = (labels == label).nonzero()[:, 0]
        order = torch.randperm(count, generator=stream(seed, "auto", repr(share), turn, label))
        held_out[rows[order[: max(1, int(count * share))]]] = False
    return Part.without(held_out)


# The methods and settings to try, as the methods themselves declare them (`Method.auto`).


@dataclass(frozen=True)
class Candidate:
    """A method with settings.

    Attributes:
        method: Method, e.g. "fvgpt+coop".
        settings: Changes to the default settings of each part.
    """

    method: str
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Its name in tables: "tip_adapter, alpha 5"."""
        changes = [f"{name} {value:g}" for part in self.settings.values() for name, value in part.items()]
        return ", ".join([self.method, *changes])

    def config(self, wish: RunConfig) -> RunConfig:
        """Return the config that trains it, from the run whose method is to be chosen."""
        return replace(wish, method=self.method, settings=self.settings, minutes=None)


def backbones_to_try() -> list[Candidate]:
    """Return backbones with settings, the cheap ones first."""
    return [
        Candidate(name, {name: dict(settings)} if settings else {})
        for name, tried in _declared(backbones())
        for settings in tried.settings
    ]


def plugins_to_try(hosts: Sequence[Candidate]) -> list[Candidate]:
    """Return plug-ins with settings, the cheap ones first, each over the first host that it accepts.

    Args:
        hosts: Backbones, the best first.
    """
    candidates: list[Candidate] = []
    for name, tried in _declared(plugins()):
        host = next((candidate for candidate in hosts if _accepts(name, candidate.method)), None)
        if host is None:
            continue
        for settings in tried.settings:
            plugin_settings = {name: dict(settings)} if settings else {}
            candidates.append(Candidate(f"{name}+{host.method}", {**host.settings, **plugin_settings}))
    return candidates


def reason_against(candidate: Candidate, wish: RunConfig, clip: Clip, *, masks: bool) -> str | None:
    """Return why a candidate cannot be tried; None if it can.

    Args:
        candidate: The candidate.
        wish: The run whose method is to be chosen.
        clip: The towers.
        masks: Whether there are masks.
    """
    if candidate.config(wish).needs_masks and not masks:
        return "it learns from foreground masks, and there are none (--masks)"
    built = build(candidate.method, clip, candidate.settings, wish.seed)
    if any(part.tunes_vision for part in walk(built)):
        return "it tunes the image tower, so no features can be kept"
    return None


def _declared(kinds: Mapping[str, Any]) -> list[tuple[str, Tried]]:
    """Return what the classes themselves declare; a subclass does not inherit it."""
    declared = [(name, vars(method_class).get("auto")) for name, method_class in kinds.items()]
    return sorted(
        ((name, tried) for name, tried in declared if tried is not None), key=lambda pair: pair[1].rank
    )


def _accepts(plugin: str, host: str) -> bool:
    try:
        parts(f"{plugin}+{host}")
    except InputError:
        return False
    return True


# The trials, within a time budget.


_ANSWERS, _SECONDS = "answers", "seconds"


class OutOfTime(Exception):
    """The budget is spent."""


@dataclass
class Budget:
    """Time budget of the trials.

    Attributes:
        seconds: Total time.
        clock: Returns seconds; monotonic.
        spent: Seconds of all ended trials, including those of an earlier process.
        since: Start of the running trial; None if none is running.
    """

    seconds: float
    clock: Callable[[], float]
    spent: float = 0.0
    since: float | None = None

    def start(self) -> None:
        """Start a trial."""
        self.since = self.clock()

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        running = 0.0 if self.since is None else self.clock() - self.since
        return self.spent + running >= self.seconds

    def check(self, *_: object) -> None:
        """Check that there is time left.

        Raises:
            OutOfTime: There is none.
        """
        if self.over:
            raise OutOfTime

    def stop(self) -> float:
        """End a trial, finished or not; return its seconds."""
        assert self.since is not None
        elapsed, self.since = self.clock() - self.since, None
        self.spent += elapsed
        return elapsed


class Trials:
    """Tries candidates on parts of the shots.

    Args:
        wish: The run whose method is to be chosen.
        clip: The towers.
        chosen: The shots, with masks if there are any.
        folders: Folder of finished trials, and folder of features; None stores no trials, and keeps features
            in memory.
        budget: Time for all trials.
        reporter: Reporter of the progress.
    """

    def __init__(
        self,
        wish: RunConfig,
        clip: Clip,
        chosen: Chosen,
        folders: tuple[Path | None, Path | None],
        budget: Budget,
        reporter: Reporter,
    ) -> None:
        self._wish, self._clip, self._chosen = wish, clip, chosen
        self._folder, bank = folders
        self._budget, self._reporter = budget, reporter
        self._trainer = PartTrainer(clip, chosen, FeatureStore(bank))
        self.labels = self._trainer.labels

    def answers(self, candidate: Candidate, parts: Sequence[Part]) -> list[Logits]:
        """Return logits `[M, C]` for the shots that each part asks about.

        The reference method, with which all others are compared, ignores the time limit.

        Raises:
            OutOfTime: The time was over before the candidate was finished.
        """
        config = candidate.config(self._wish)
        path = self._folder and self._folder / f"{self._name(config, parts)}.safetensors"
        finished = _read(path, parts) if path else None
        if finished is not None:
            self._budget.spent += finished[1]
            return finished[0]
        trainer = self._trainer
        check = self._budget.check if candidate.method != REFERENCE else None
        if check is None or not self._budget.over:
            trainer.encode(config, self._reporter)
        self._budget.start()
        answers: list[Logits] = []
        try:
            for part in parts:
                if check:
                    check()
                answers.append(trainer.ask(trainer.train(config, part.train, check), part.test).cpu())
                self._reporter.count(f"trying {candidate.title}", len(answers), len(parts))
        finally:
            seconds = self._budget.stop()
        if path:
            _write(path, answers, seconds)
        return answers

    def _name(self, config: RunConfig, parts: Sequence[Part]) -> str:
        identity = Run(config, self._clip).identity(self._chosen)
        return digest({"run": identity, "parts": [[part.train, part.test] for part in parts]})[:16]


def _write(path: Path, answers: Sequence[Logits], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {_ANSWERS: torch.cat(list(answers)).contiguous()}
    write_atomically(path, save(tensors, {_SECONDS: json.dumps(seconds)}))


def _read(path: Path, parts: Sequence[Part]) -> tuple[list[Logits], float] | None:
    """Return a finished trial; None if there is none, or if its file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            seconds = float(json.loads(file.metadata()[_SECONDS]))
            joined: Tensor = file.get_tensor(_ANSWERS).clone()
        return list(joined.split([len(part.test) for part in parts])), seconds
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
