"""The log of a run: one JSON object a line, one line a step and some for epochs. Readable by anything."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.files import write_atomically


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        epoch: Counted from 0.
        step: Counted from 0 over the whole fit.
        lr: Its learning rate.
        losses: Value of each named term.
        grad_norm: Norm of all gradients together, before clipping.
    """

    epoch: int
    step: int
    lr: float
    losses: dict[str, float]
    grad_norm: float

    @property
    def loss(self) -> float:
        """The sum that was minimised."""
        return sum(self.losses.values())


class Journal:
    """Appends to `path`; lines of one `stage` can be taken back when that stage resumes.

    As a context it flushes at the end, also when what is inside fails.

    Args:
        path: The JSONL file, made when missing; None keeps no log.
        stage: Name of the stage whose steps are logged, e.g. "coop".
        answers: Asked at the end of each epoch which pictures are answered rightly, by their names.
    """

    def __init__(
        self, path: Path | None, stage: str = "", answers: Callable[[], dict[str, bool]] | None = None
    ):
        self.path, self.stage, self._answers = path, stage, answers
        self._lines: list[str] = []

    def step(self, step: Step) -> None:
        """Log one step; it reaches the disk with the next `flush`."""
        self.event(
            {
                "stage": self.stage,
                "epoch": step.epoch,
                "step": step.step,
                "lr": step.lr,
                "loss": step.loss,
                **{f"loss.{name}": value for name, value in step.losses.items()},
                "grad_norm": step.grad_norm,
            }
        )

    def epoch(self, epoch: int, steps: int, figures: Mapping[str, float]) -> None:
        """Log what an epoch was like, if there is anything to say.

        Args:
            epoch: Counted from 0.
            steps: Taken so far; the line belongs to the last of them.
            figures: By name.
        """
        line = {"stage": self.stage, "epoch": epoch, "step": steps - 1}
        if figures:
            self.event({**line, "figures": dict(figures)})
        if self._answers:
            self.event({**line, "right": self._answers()})

    def event(self, values: Mapping[str, object]) -> None:
        """Log anything."""
        self._lines.append(json.dumps(dict(values)) + "\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Append what was logged.

        Raises:
            OSError: No space; it names the file.
        """
        if self.path:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(self._lines)
            except OSError as error:
                error.filename = str(self.path)
                raise
        self._lines.clear()

    def rewind(self, step: int) -> None:
        """Drop this stage's lines from `step` on: a resumed run is about to write them again."""
        if not self.path or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_atomically(self.path, "".join(f"{line}\n" for line in lines if self._stays(line, step)))

    def _stays(self, line: str, step: int) -> bool:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # half a line, from a kill
            return False
        if not isinstance(values, dict):
            return False
        return values.get("stage") != self.stage or values.get("step", -1) < step
