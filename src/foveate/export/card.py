"""The card of an exported model."""

from collections.abc import Sequence

from foveate.run.folder import Manifest
from foveate.train.card import SplitScore, card_head, data_of, plain_text
from foveate.train.checkpoint import ModelConfig


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
