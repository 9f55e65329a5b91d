"""The model card, and the scores of a model, which the card shows."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.configs import as_dataclass
from foveate.errors import InputError, printable
from foveate.files import write_atomically
from foveate.readers import parse_table, read_bytes
from foveate.train.checkpoint import CARD, SCORES, ModelConfig

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
PLACE = "this folder or hub id"
"""Placeholder in a card's example until the place of the model is known."""

_LEVEL = 0.95
"""Confidence level of the intervals."""


@dataclass(frozen=True)
class SplitScore:
    """Result of `foveate evaluate` on a split of a data set.

    Attributes:
        data: Name of the data set: of its folder, its file, or on the hub.
        split: "base", "new" or "all"; see `foveate.evaluate.answers`.
        pictures: Number of pictures.
        classes: Number of names to choose from.
        accuracy: Accuracy in percent, and the ends of its 95 % interval.
        ece: Expected calibration error in points, and the ends of its 95 % interval.
    """

    data: str
    split: str
    pictures: int
    classes: int
    accuracy: tuple[float, float, float]
    ece: tuple[float, float, float]

    @property
    def words(self) -> str:
        """Text for the model card."""
        (right, low, high), (ece, least, most) = self.accuracy, self.ece
        return (
            f"Measured on {plain_text(self.data)}, {self.split} classes: {right:.1f} % right of"
            f" {self.pictures} pictures among {self.classes} names ({low:.1f} to {high:.1f} with 95 %),"
            f" calibration error {ece:.1f} points ({least:.1f} to {most:.1f})."
        )

    def results(self) -> list[Any]:
        """Return the scores in the hub's format: one `EvalResult` for accuracy, one for calibration error."""
        from huggingface_hub import EvalResult

        metrics = {
            "accuracy": ("Accuracy, %", self.accuracy),
            "ece": ("Expected calibration error", self.ece),
        }
        return [
            EvalResult(
                task_type="image-classification",
                dataset_type=self.data,
                dataset_name=self.data,
                dataset_split=self.split,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 2),
                metric_args={"interval": [round(low, 2), round(high, 2)], "level": _LEVEL},
            )
            for kind, (name, (value, low, high)) in metrics.items()
        ]


def read_scores(folder: Path) -> tuple[SplitScore, ...]:
    """Return the scores of a saved model.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / SCORES
    if not path.is_file():
        return ()
    try:
        rows = parse_table(read_bytes(path), SCORES).get("scores")
        if not isinstance(rows, list):
            raise InputError("it has no scores")
        return tuple(as_dataclass(SplitScore, row, "a score") for row in rows)
    except InputError as error:
        raise InputError(f"{path} is damaged ({error}): delete it, and evaluate again") from error


def write_scores(folder: Path, scores: Sequence[SplitScore], card: str) -> None:
    """Write the scores of a saved model, and its card.

    Args:
        folder: Folder of the model.
        scores: All known scores.
        card: Model card with these scores.
    """
    rows = {"scores": [asdict(score) for score in scores]}
    write_atomically(folder / SCORES, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    write_atomically(folder / CARD, card)


def model_card(
    config: ModelConfig, parameters: int, trusted: str = "", scores: Sequence[SplitScore] = ()
) -> str:
    """Return the README of a tuned model.

    Args:
        config: Config of the model.
        parameters: Number of learned parameters.
        trusted: Sentence on the reliability of its answers, if there is one.
        scores: Scores of the model, if there are any.
    """
    rest = f", … ({len(config.names)} in all)" if len(config.names) > 20 else ""
    names = ", ".join(plain_text(name) for name in config.names[:20]) + rest
    measured = "\n".join(f"- {score.words}" for score in scores) or (
        "- Accuracy was not measured by writing this card; `foveate evaluate` measures it."
    )
    return f"""{card_head(config, scores=scores)}
# {config.method} on {plain_text(config.clip)}

{_origin(config, parameters)}

Classes: {names}

```python
from foveate import Classifier

classifier = Classifier.from_pretrained("{PLACE}")
classifier.predict(["photo.jpg"])                       # among the classes above
classifier.predict(["photo.jpg"], classes=["another"])  # and one it never saw
```

- Towers: `{config.clip.replace("`", "'")}` (weights {config.fingerprint}); they are not in this folder.
- Settings: `config.json`.{f" Its data's hash: `{config.data}`." if config.data else ""}
- Licence: that of the towers and of the pictures.
- Limits: it answers with one of the names it is given, whatever the picture shows.
{measured}
{f"- Trust: {trusted}{chr(10)}" if trusted else ""}"""


def card_head(config: ModelConfig, licence: str = "", scores: Sequence[SplitScore] = ()) -> str:
    """Return the card's metadata in YAML, between two lines of dashes.

    Args:
        config: Config of the model.
        licence: Licence of the towers and the pictures, if it is known.
        scores: Scores of the model.
    """
    from huggingface_hub import ModelCardData  # this import takes a second

    data = ModelCardData(
        base_model=config.clip if _HUB_ID.fullmatch(config.clip) else None,
        library_name="foveate",
        license=licence.lower() or None,
        pipeline_tag="image-classification",
        tags=["clip", "few-shot", config.method],
        model_name=f"{config.method} on {Path(config.clip).name}" if scores else None,
        eval_results=[result for score in scores for result in score.results()] or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def data_of(config: ModelConfig) -> str:
    """Return a description of the training pictures: their number, and how they were chosen."""
    if config.imported:
        return (
            f"a checkpoint of the method authors' code ({config.imported}), whose pictures are not known here"
        )
    how = f"chosen by {config.selection}" if config.selection else f"up to {config.shots} each"
    return f"{config.pictures} pictures of {len(config.names)} classes ({how}, seed {config.seed})"


def plain_text(text: str) -> str:
    """Escape text for Markdown, so that nothing in it is a link, a picture or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~!&])", r"\\\1", printable(text).replace("\n", " "))


def _origin(config: ModelConfig, parameters: int) -> str:
    learned, classes = f"{parameters:,} learned numbers over a frozen CLIP", f"{len(config.names)} classes"
    if config.imported:
        return (
            f"An image classifier from a checkpoint of the method authors' code ({config.imported}),\n"
            f"imported into foveate: {learned}, for {classes}."
        )
    chosen = f"\n\nThe method was chosen: {plain_text(config.chosen)}" if config.chosen else ""
    return f"An image classifier tuned with foveate: {learned}, from\n{data_of(config)}.{chosen}"
