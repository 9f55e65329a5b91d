"""`export`: a tuned model as a folder that runs without PyTorch, written only if it answers alike."""

import copy
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foveate.classifier import Classifier
from foveate.errors import InputError
from foveate.export.awkward import draw_awkward
from foveate.export.card import export_card
from foveate.export.graphs import Plan, demand_exportable, plan
from foveate.export.proof import Compared, compare, demand_agreement, demand_equal
from foveate.export.quantising import quantised
from foveate.export.tracing import SharedWeights, at_rest, trace
from foveate.files import home_of, write_atomically
from foveate.foreground.opening import LazyPicture
from foveate.prediction import PLAIN, Branch
from foveate.run.folder import (
    ARRAYS,
    CARD,
    TOKENIZER,
    TRUST,
    WEIGHTS,
    Manifest,
    write_arrays,
    write_manifest,
)
from foveate.run.model import Exported, load
from foveate.train.checkpoint import ModelConfig
from foveate.train.folder import refuse_folder

Pictures = Sequence[Path | LazyPicture]


@dataclass(frozen=True)
class ExportReport:
    """What an export has come to.

    Attributes:
        folder: It.
        proved: How its answers compare with the model's.
        int8: How those with int8 weights compare with the others; None without such weights.
        megabytes: Of the folder.
    """

    folder: Path
    proved: Compared
    int8: Compared | None
    megabytes: float


def export(
    classifier: Classifier,
    folder: str | Path,
    *,
    photos: Pictures = (),
    int8: bool = False,
    licence: str = "",
) -> ExportReport:
    """Write a tuned model as graphs, and everything else that its answers depend on.

    It is proved first. Asked about these pictures, and about awkward ones that are drawn for it, among
    trained names, new names, and both, it gives the same labels, and probabilities within 1e-5.

    Args:
        classifier: Tuned, with towers in float32, on the CPU.
        folder: New or empty.
        photos: Pictures of the kind that it will be asked about.
        int8: Whether the towers' weights take 8 bits: a quarter of the size. Labels are then the same for
            99 % of the answers about `photos`.
        licence: Of the towers and the pictures; it is put on the card.

    Raises:
        InputError: The method cannot be exported, or the export does not answer alike; nothing is written
            then.
    """
    folder = home_of(folder)
    config = _demand_exportable(classifier, folder)
    if int8 and not photos:
        raise InputError("int8 weights are tried on pictures of your own: give some, with --photos")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        work = Path(beside)
        awkward = work / "awkward"
        awkward.mkdir()
        pictures = [*photos, *draw_awkward(awkward)]
        planned, models = _traced(classifier, config)
        manifest = _manifest(classifier, config, planned, licence)
        whole = _write(work / "float32", classifier, planned, models, manifest)
        branches: list[Branch] = ["base"] if planned.texts.kind == "fixed" else ["base", "mixed", "new"]
        proved = compare(classifier, whole, pictures, branches)
        demand_equal(proved)
        small = None
        proof: dict[str, Any] = {"pictures": len(pictures), "own": len(photos), "names": branches}
        proof |= {"answers": proved.answers, "largest_difference": proved.largest}
        done = whole
        if int8:
            manifest = replace(manifest, precision="int8")
            done = _write(work / "int8", classifier, planned, quantised(models), manifest)
            with _refusing_graphs(config.method):
                small = compare(whole, done, photos, branches)
            demand_agreement(small)
            proof |= {"int8_answers": small.answers, "int8_agreement": small.agreement}
        manifest = replace(manifest, proof=proof)
        _finish(done.folder, manifest, export_card(manifest, config, classifier.scores))
        if folder.exists():
            folder.rmdir()
        shutil.move(done.folder, folder)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return ExportReport(folder, proved, small, megabytes)


@contextmanager
def _refusing_graphs(method: str) -> Generator[None]:
    """Refuse int8 weights, inside, if onnxruntime cannot run the graphs that it has quantised."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise InputError(
            f"onnxruntime cannot run {method} with int8 weights ({' '.join(str(error).split())[-80:]}): leave"
            " out --int8"
        ) from error


def _demand_exportable(classifier: Classifier, folder: Path) -> ModelConfig:
    """Refuse what nothing can be made of, before any work; return the model's config."""
    if classifier.config is None:
        raise InputError("this classifier has learned nothing yet: call fit, or from_pretrained")
    tower = classifier.clip.text.proj
    if tower.dtype != torch.float32 or tower.device.type != "cpu":
        raise InputError(
            f"exports are made of towers in float32 on the CPU, and these are in {tower.dtype} on"
            f" {tower.device}: give dtype=torch.float32, device='cpu' to from_pretrained"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already, and not empty: choose another output folder")
    refuse_folder(folder)
    demand_exportable(classifier.method)
    return classifier.config


def _traced(classifier: Classifier, config: ModelConfig) -> tuple[Plan, dict[str, Any]]:
    """Return a method as graphs, planned and traced."""
    method = classifier.method
    with at_rest(method):
        method.set_classes(config.names, config.template)
        with torch.no_grad():
            planned = plan(method, knows_shots=classifier.trust is not None)
        return planned, {name: trace(one, planned.examples[name]) for name, one in planned.graphs.items()}


def _manifest(classifier: Classifier, config: ModelConfig, planned: Plan, licence: str) -> Manifest:
    size, known = classifier.clip.config, classifier.trust
    return Manifest(
        method=config.method,
        names=list(config.names),
        image_size=size.image_size,
        mean=size.mean,
        std=size.std,
        context=size.context,
        texts=planned.texts,
        closed=planned.closed,
        new=planned.new,
        mixed=planned.mixed,
        route_weight=planned.route_weight,
        calibration=PLAIN if known is None else known.calibration,
        plain_temperature=1.0 if known is None else known.plain,
        calibrated=known is not None and known.knows_doubt,
        clip=config.clip,
        fingerprint=config.fingerprint,
        licence=licence,
        foveate=version("foveate"),
    )


def _write(
    folder: Path, classifier: Classifier, planned: Plan, models: Mapping[str, Any], manifest: Manifest
) -> Exported:
    folder.mkdir()
    weights = SharedWeights(folder)
    for name, model in models.items():
        weights.write(name, copy.deepcopy(model))
    (folder / WEIGHTS).touch()
    texts = {"text": planned.text, "prior": planned.prior, "reference": planned.reference}
    tensors = {**texts, "vectors": planned.vectors}
    write_arrays(folder / ARRAYS, {name: one.detach().numpy() for name, one in tensors.items()})
    if classifier.trust is not None:
        known = classifier.trust.tensors()
        if not torch.equal(known["features"].float(), classifier.trust.support.features):
            known["features"] = classifier.trust.support.features  # fitted just now, and not read
        write_arrays(folder / TRUST, {name: one.numpy() for name, one in known.items()})
    classifier.clip.tokenizer.save(folder / TOKENIZER)
    write_manifest(folder, manifest)
    return load(folder)


def _finish(folder: Path, manifest: Manifest, card: str) -> None:
    write_atomically(folder / CARD, card)
    write_manifest(folder, manifest)
