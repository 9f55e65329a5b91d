"""`Choice`: which method was chosen, on what grounds, and what to expect of it; kept beside the model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.auto.candidates import Candidate
from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.evaluate.intervals import Interval
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
        accuracy: On shots that were held out, in percent; of one method by itself.
    """

    title: str
    method: str
    settings: dict[str, dict[str, Any]]
    accuracy: Interval


@dataclass(frozen=True)
class Forecast:
    """What more photos would bring.

    Attributes:
        more: How many a class.
        accuracy: With them, in percent.
    """

    more: int
    accuracy: Interval


@dataclass(frozen=True)
class Choice:
    """A choice between methods. All intervals are 90 % intervals.

    Attributes:
        request: What was to be chosen, and on which shots.
        chosen: Title of the candidate that was chosen.
        rows: All that were tried, the best first.
        expected: Accuracy on new photos like the shots, in percent: corrected for the choice, and for the
            shots that were held out.
        gain: Of the best method over zero-shot CLIP, in points; None if no other was tried.
        verdict: What these two figures say, in a sentence.
        forecast_of: Title of the candidate that `forecasts` tell of.
        forecasts: What more photos would bring; empty if nothing can be said.
        left_out: Why others were not tried, by title.
        held_out: How many shots were held out, each once.
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
        """The candidate that was chosen."""
        row = next(row for row in self.rows if row.title == self.chosen)
        return Candidate(row.method, row.settings)

    def config(self, wish: RunConfig) -> RunConfig:
        """Return the run that trains it."""
        return self.candidate.config(wish)

    @property
    def words(self) -> str:
        """As the model's config and its card tell it."""
        return (
            f"{self.chosen}, of {len(self.rows)} that --method auto tried on {self.held_out} shots that were"
            f" held out in turn; expected on photos like them: {told(self.expected)} right. {self.verdict}"
        )

    def write(self, folder: Path) -> None:
        """Write it into a run folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_atomically(folder / CHOICE, text + "\n")


def told(one: Interval) -> str:
    """Return an accuracy as it is told: "91.2 % (84.0 to 95.9)"."""
    return f"{one.value:.1f} % ({one.low:.1f} to {one.high:.1f})"


def read_choice(folder: Path) -> Choice | None:
    """Read the choice of a run folder; None if there is none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / CHOICE
    if not path.is_file():
        return None
    try:
        found = as_dataclass(Choice, parse_table(read_bytes(path), CHOICE), CHOICE)
        if found.chosen not in {row.title for row in found.rows}:
            raise InputError(f"{found.chosen!r} is none of its rows")
        return found
    except InputError as error:
        raise InputError(
            f"{path} is damaged ({one_line(error)}): delete {folder}, or choose another output folder"
        ) from error
