"""`export` writes a tuned model as a folder that runs without PyTorch, if its predictions are equal."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from foveate.classifier import Classifier
from foveate.errors import InputError
from foveate.export.graphs import Plan, demand_exportable, plan
from foveate.export.proof import Compared, compare, demand_agreement, demand_equal
from foveate.export.tracing import SharedWeights, at_rest, quantised, trace
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
from foveate.train.card import SplitScore, card_head, data_of, plain_text
from foveate.train.checkpoint import ModelConfig
from foveate.train.folder import refuse_folder

Pictures = Sequence[Path | LazyPicture]


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        folder: Folder of the export.
        proved: Comparison of its float32 answers with the model's.
        int8: Comparison of answers with int8 and float32 weights; None without int8 weights.
        megabytes: Size of the folder.
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

    The export is verified first: for these pictures, and for drawn ones that are hard to read, among trained
    names, new names, and both, it must give the same labels, and probabilities within 1e-5.

    Args:
        classifier: Tuned, with towers in float32, on the CPU.
        folder: A new or empty folder.
        photos: Pictures like those that the model will be asked about.
        int8: Whether to store the towers' weights in 8 bits, a quarter of the size. At least 99 % of the
            answers about `photos` must then be the same.
        licence: Licence of the towers and the pictures, for the model card.

    Raises:
        InputError: The method cannot be exported, or the answers differ; nothing is written.
    """
    folder = home_of(folder)
    config = _demand_exportable(classifier, folder)
    if int8 and not photos:
        raise InputError("int8 weights are tried on pictures of your own: give some, with --photos")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        work = Path(temporary)
        awkward = work / "awkward"
        awkward.mkdir()
        pictures = [*photos, *draw_awkward(awkward)]
        planned, models = _traced(classifier, config)
        manifest = _manifest(classifier, config, planned, licence)
        float32 = _write(work / "float32", classifier, planned, models, manifest)
        branches: list[Branch] = ["base"] if planned.texts.kind == "fixed" else ["base", "mixed", "new"]
        proved = compare(classifier, float32, pictures, branches)
        demand_equal(proved)
        int8_comparison = None
        proof: dict[str, Any] = {"pictures": len(pictures), "own": len(photos), "names": branches}
        proof |= {"answers": proved.answers, "largest_difference": proved.largest}
        final = float32
        if int8:
            manifest = replace(manifest, precision="int8")
            final = _write(work / "int8", classifier, planned, quantised(models), manifest)
            with _refusing_graphs(config.method):
                int8_comparison = compare(float32, final, photos, branches)
            demand_agreement(int8_comparison)
            proof |= {"int8_answers": int8_comparison.answers, "int8_agreement": int8_comparison.agreement}
        manifest = replace(manifest, proof=proof)
        write_atomically(final.folder / CARD, export_card(manifest, config, classifier.scores))
        write_manifest(final.folder, manifest)
        if folder.exists():
            folder.rmdir()
        shutil.move(final.folder, folder)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    return ExportReport(folder, proved, int8_comparison, megabytes)


@contextmanager
def _refusing_graphs(method: str) -> Generator[None]:
    """Refuse int8 weights if onnxruntime cannot run the quantised graphs inside the block."""
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
    """Refuse a model that cannot be exported, before any work; return its config."""
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
    """Return the plan of a method's graphs, and the traced graphs by name."""
    method = classifier.method
    with at_rest(method):
        method.set_classes(config.names, config.template)
        with torch.no_grad():
            planned = plan(method, knows_shots=classifier.trust is not None)
        return planned, {name: trace(graph, planned.examples[name]) for name, graph in planned.graphs.items()}


def _manifest(classifier: Classifier, config: ModelConfig, planned: Plan, licence: str) -> Manifest:
    clip_config, trust = classifier.clip.config, classifier.trust
    return Manifest(
        method=config.method,
        names=list(config.names),
        image_size=clip_config.image_size,
        mean=clip_config.mean,
        std=clip_config.std,
        context=clip_config.context,
        texts=planned.texts,
        closed=planned.closed,
        new=planned.new,
        mixed=planned.mixed,
        route_weight=planned.route_weight,
        calibration=PLAIN if trust is None else trust.calibration,
        plain_temperature=1.0 if trust is None else trust.plain,
        calibrated=trust is not None and trust.knows_doubt,
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
    write_arrays(folder / ARRAYS, {name: tensor.detach().numpy() for name, tensor in tensors.items()})
    if classifier.trust is not None:
        trust_tensors = classifier.trust.tensors()
        if not torch.equal(trust_tensors["features"].float(), classifier.trust.support.features):
            # Not loaded but fitted just now: 16 bits would lose precision.
            trust_tensors["features"] = classifier.trust.support.features
        write_arrays(folder / TRUST, {name: tensor.numpy() for name, tensor in trust_tensors.items()})
    classifier.clip.tokenizer.save(folder / TOKENIZER)
    write_manifest(folder, manifest)
    return load(folder)


# Pictures that programs read differently: rotated by EXIF, CMYK, 16 bits, with a palette, animated.
#
# They are drawn from a seed, and each export is verified on them.


_ORIENTATION = 0x0112


def draw_awkward(folder: Path, seed: int = 0) -> list[Path]:
    """Draw such files into a folder; return their paths.

    Args:
        folder: An existing, empty folder.
        seed: Seed of the drawings.
    """
    rng = np.random.default_rng(seed)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        _drawing(rng, 97, 61).save(folder / f"turned-{orientation}.jpg", exif=exif, quality=90)
    for name, save in _KINDS.items():
        save(_drawing(rng, 83, 120), folder / name)
    return sorted(folder.iterdir())


def _drawing(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return smooth colours with a bright corner, so that a rotated or mirrored picture differs."""
    coarse = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    drawing = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    drawing.paste((255, 240, 20), (2, 3, width // 3, height // 4))
    return drawing


def _alpha(drawing: Image.Image, mode: str) -> Image.Image:
    ramp = Image.fromarray(np.linspace(0, 255, drawing.width, dtype=np.uint8)[None].repeat(drawing.height, 0))
    image = drawing.convert(mode.removesuffix("A") if mode == "LA" else "RGB")
    image.putalpha(ramp)
    return image


def _deep(drawing: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(drawing.convert("L")).astype(np.uint16) * 257)


def _save_animated(drawing: Image.Image, path: Path) -> None:
    frames = [drawing.rotate(90 * turn, expand=False) for turn in range(1, 3)]
    drawing.save(path, save_all=True, append_images=frames, duration=80)


def _save_transparent(drawing: Image.Image, path: Path) -> None:
    drawing.quantize(16).save(path, transparency=3)


_KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "cmyk.jpg": lambda drawn, path: drawn.convert("CMYK").save(path, quality=90),
    "grey.jpg": lambda drawn, path: drawn.convert("L").save(path, quality=90),
    "grey-16-bit.png": lambda drawn, path: _deep(drawn).save(path),
    "palette.png": lambda drawn, path: drawn.quantize(16).save(path),
    "palette-see-through.png": _save_transparent,
    "alpha.png": lambda drawn, path: _alpha(drawn, "RGBA").save(path),
    "grey-alpha.png": lambda drawn, path: _alpha(drawn, "LA").save(path),
    "two-colours.png": lambda drawn, path: drawn.convert("1").save(path),
    "moving.gif": _save_animated,
    "moving.png": _save_animated,
    "plain.bmp": lambda drawn, path: drawn.save(path),
    "packed.tif": lambda drawn, path: drawn.save(path, compression="tiff_lzw"),
    "long.png": lambda drawn, path: drawn.resize((9, 700)).save(path),
    "small.png": lambda drawn, path: drawn.resize((3, 2)).save(path),
}


# The card of an exported model.


def export_card(manifest: Manifest, config: ModelConfig, scores: Sequence[SplitScore] = ()) -> str:
    """Return the README of an exported model.

    Args:
        manifest: Manifest of the export, with its proof.
        config: Config of the exported model.
        scores: Measured scores of that model.
    """
    rest = f", … ({len(manifest.names)} in all)" if len(manifest.names) > 20 else ""
    names = ", ".join(plain_text(name) for name in manifest.names[:20]) + rest
    proof, lines = manifest.proof, list[str]()
    lines.append(
        f"Proved at the export: {proof['answers']} answers about {proof['pictures']} picture files,"
        f" {proof['own']} of them its owner's,\n  have the labels that the model gave, and probabilities"
        f" within {proof['largest_difference']:.1g} of its."
    )
    if "int8_agreement" in proof:
        lines.append(
            f"Weights have 8 bits: {100 * proof['int8_agreement']:.1f} % of {proof['int8_answers']} answers"
            " are what they are with 32 bits."
        )
    lines += [
        f"Data: {plain_text(data_of(config))}.{f' Their hash: {config.data}.' if config.data else ''}",
        f"Towers: weights {manifest.fingerprint}; they are in this folder.",
        f"Licence: {plain_text(manifest.licence) or 'not given; that of the towers and of the pictures'}.",
        "Limits: it answers with one of the names it is given, whatever the picture shows.",
        *(f"Of the model that was exported: {score.words}" for score in scores),
    ]
    bullets = "\n".join(f"- {line}" for line in lines)
    return f"""{card_head(config, manifest.licence, scores)}
# {manifest.method} on {plain_text(manifest.clip)}, exported

An image classifier tuned with foveate {manifest.foveate}, as ONNX graphs ({manifest.precision}).

Classes: {names}

```python
import foveate.run  # onnxruntime, numpy, Pillow and tokenizers; no PyTorch

model = foveate.run.load("this folder")
model.predict(["photo.jpg"])                       # among the classes above
model.predict(["photo.jpg"], classes=["another"])  # and one it never saw
```

{bullets}
"""
