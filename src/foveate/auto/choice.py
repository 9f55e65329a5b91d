"""`Choice`: the chosen method, the evidence for it, and its expected accuracy; saved with the model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.auto.trials import Candidate
from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.evaluate.metrics import Interval
from foveate.files import write_atomically
from foveate.readers import one_line, parse_table, read_bytes
from foveate.train.config import RunConfig
from foveate.train.folder import CHOICE


@dataclass(frozen=True)
class Row:
    """A candidate that was tried.

    Attributes:
        title: Its name in tables.
        method: The method.
        settings: Changes to the default settings of its parts.
        accuracy: Accuracy on held-out shots, in percent, not corrected for the choice.
    """

    title: str
    method: str
    settings: dict[str, dict[str, Any]]
    accuracy: Interval


@dataclass(frozen=True)
class Forecast:
    """Expected accuracy with more photos.

    Attributes:
        more: Number of additional photos per class.
        accuracy: Accuracy with them, in percent.
    """

    more: int
    accuracy: Interval


@dataclass(frozen=True)
class Choice:
    """A choice between methods. All intervals are 90 % intervals.

    Attributes:
        request: Identity of the run whose method was to be chosen, with its shots.
        chosen: Title of the chosen candidate.
        rows: All tried candidates, the best first.
        expected: Expected accuracy on new photos like the shots, in percent: corrected for the choice, and
            for the smaller training sets of the folds.
        gain: Gain of the best method over zero-shot CLIP, in points; None if no other was tried.
        verdict: What these two figures mean, in a sentence.
        forecast_of: Title of the candidate of `forecasts`.
        forecasts: Expected accuracy with more photos; empty if unknown.
        left_out: Reason why a candidate was not tried, by title.
        held_out: Number of shots that were held out, each once.
    """

    request: dict[str, Any]
    chosen: str
    rows: tuple[Row, ...]
    expected: Interval
    gain: Interval | None
    verdict: str
    forecast_of: str
    forecasts: tuple[Forecast, ...]
    left_out: dict[str, str]
    held_out: int

    @property
    def candidate(self) -> Candidate:
        """The chosen candidate."""
        row = next(row for row in self.rows if row.title == self.chosen)
        return Candidate(row.method, row.settings)

    def config(self, wish: RunConfig) -> RunConfig:
        """Return the config that trains the chosen candidate."""
        return self.candidate.config(wish)

    @property
    def words(self) -> str:
        """Description for the model's config and its card."""
        return (
            f"{self.chosen}, of {len(self.rows)} that --method auto tried on {self.held_out} shots that were"
            f" held out in turn; expected on photos like them: {interval_text(self.expected)} right."
            f" {self.verdict}"
        )

    def write(self, folder: Path) -> None:
        """Write the choice into a run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_atomically(folder / CHOICE, text + "\n")


def interval_text(interval: Interval) -> str:
    """Return an interval as text: "91.2 % (84.0 to 95.9)"."""
    return f"{interval.value:.1f} % ({interval.low:.1f} to {interval.high:.1f})"


def read_choice(folder: Path) -> Choice | None:
    """Read the choice of a run folder; None if there is none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / CHOICE
    if not path.is_file():
        return None
    try:
        choice = as_dataclass(Choice, parse_table(read_bytes(path), CHOICE), CHOICE)
        if choice.chosen not in {row.title for row in choice.rows}:
            raise InputError(f"{choice.chosen!r} is none of its rows")
        return choice
    except InputError as error:
        raise InputError(
            f"{path} is damaged ({one_line(error)}): delete {folder}, or choose another output folder"
        ) from error
