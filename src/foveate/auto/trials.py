"""Trials: a candidate learns from some of the shots and is asked about the others, within a budget of time.

Finished trials are kept in the run folder, so that a stopped run does not repeat them.
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
    """Time for trials.

    Attributes:
        seconds: How much there is.
        clock: Returns seconds that grow.
        spent: By trials that are finished, of an earlier process too.
    """

    seconds: float
    clock: Callable[[], float]
    spent: float = 0.0
    since: float | None = None

    def start(self) -> None:
        """Begin a trial."""
        self.since = self.clock()

    @property
    def over(self) -> bool:
        """Whether none is left."""
        running = 0.0 if self.since is None else self.clock() - self.since
        return self.spent + running >= self.seconds

    def check(self, *_: object) -> None:
        """Go on, if there is time left.

        Raises:
            OutOfTime: There is none.
        """
        if self.over:
            raise OutOfTime

    def stop(self) -> float:
        """End a trial, finished or not; return its seconds."""
        assert self.since is not None
        taken, self.since = self.clock() - self.since, None
        self.spent += taken
        return taken


class Trials:
    """Tries candidates on parts of the shots.

    Args:
        wish: The run whose method is to be chosen.
        clip: The towers.
        chosen: The shots, with masks if there are any.
        places: Folder of finished trials, and folder of features; None keeps the former not at all, and the
            latter in memory.
        budget: Time for all trials.
        told: Hears of progress.
    """

    def __init__(
        self,
        wish: RunConfig,
        clip: Clip,
        chosen: Chosen,
        places: tuple[Path | None, Path | None],
        budget: Budget,
        told: Reporter,
    ) -> None:
        self._wish, self._clip, self._chosen = wish, clip, chosen
        self._folder, bank = places
        self._budget, self._told = budget, told
        self._trainer = PartTrainer(clip, chosen, FeatureStore(bank))
        self.labels = self._trainer.labels

    def answers(self, candidate: Candidate, parts: Sequence[Part]) -> list[Logits]:
        """Return `[M, C]` logits of what each part asks.

        The reference method, which all others are compared with, is tried without regard to the time.

        Raises:
            OutOfTime: Before the others were finished.
        """
        config = candidate.config(self._wish)
        path = self._folder and self._folder / f"{self._name(config, parts)}.safetensors"
        kept = _read(path, parts) if path else None
        if kept is not None:
            self._budget.spent += kept[1]
            return kept[0]
        trainer = self._trainer
        check = self._budget.check if candidate.method != REFERENCE else None
        if check is None or not self._budget.over:
            trainer.encode(config, self._told)
        self._budget.start()
        found: list[Logits] = []
        try:
            for part in parts:
                if check:
                    check()
                found.append(trainer.ask(trainer.train(config, part.learned, check), part.asked).cpu())
                self._told.count(f"trying {candidate.title}", len(found), len(parts))
        finally:
            taken = self._budget.stop()
        if path:
            _write(path, found, taken)
        return found

    def _name(self, config: RunConfig, parts: Sequence[Part]) -> str:
        identity = Run(config, self._clip).identity(self._chosen)
        return digest({"run": identity, "parts": [[one.learned, one.asked] for one in parts]})[:16]


def _write(path: Path, answers: Sequence[Logits], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {_ANSWERS: torch.cat(list(answers)).contiguous()}
    write_atomically(path, save(whole, {_SECONDS: json.dumps(seconds)}))


def _read(path: Path, parts: Sequence[Part]) -> tuple[list[Logits], float] | None:
    """Return a finished trial; None if there is none, or if its file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            seconds = float(json.loads(file.metadata()[_SECONDS]))
            whole: Tensor = file.get_tensor(_ANSWERS).clone()
        return list(whole.split([len(one.asked) for one in parts])), seconds
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        return None
