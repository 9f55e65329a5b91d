"""Trials: a candidate learns from some of the shots and predicts the others, within a time budget.

Finished trials are stored in the run folder, so that a stopped run does not repeat them.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.auto.candidates import Candidate
from foveate.auto.parts import Part
from foveate.clip.model import Clip
from foveate.data.feature_store import FeatureStore
from foveate.files import write_atomically
from foveate.methods.registry import REFERENCE
from foveate.train.config import RunConfig, digest
from foveate.train.reporter import Reporter
from foveate.train.run import Run
from foveate.train.shots import Chosen
from foveate.trust.folds import PartTrainer
from foveate.types import Logits

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
