"""What an exported model knows of its answers, as `foveate.trust` has it, in numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foveate.trust.promises import MOST_NOVEL, demand_promises, least_probability


@dataclass(frozen=True)
class ExportedTrust:
    """Says how sure an answer is, and when there should be none; see `foveate.trust.trust.Trust`.

    Attributes:
        features: `[N, D]` unit features of the shots, of the untouched CLIP.
        labels: `[N]` rows of the trained names.
        distances: `[N]` how far each shot is from the nearest other one, in ascending order.
        texts: `[N]` how close each is to the text of its name, in ascending order.
        truths: `[M]` probability that held-back shots gave to their own names, in ascending order.
    """

    features: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    texts: np.ndarray
    truths: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "ExportedTrust":
        """Make it of arrays as they are saved: features with 16 bits where they lose nothing by it."""
        features = arrays["features"].astype(np.float32)
        return cls(features, *(arrays[name] for name in ("labels", "distances", "texts", "truths")))

    def demand(self, risk: float | None, *, refusals: bool) -> None:
        """Refuse what it cannot promise.

        Raises:
            InputError: Too few shots were held back, or there are too few; or it is no risk.
        """
        demand_promises(self.truths.tolist(), len(self.labels), risk, refusals=refusals)

    def sets(self, probabilities: np.ndarray, risk: float) -> np.ndarray:
        """Return `[B, C]` which names each picture may show: the likely ones, and always the likeliest.

        Args:
            probabilities: `[B, C]` of the temperature alone.
            risk: One that `demand` does not refuse.
        """
        chosen = probabilities >= least_probability(self.truths.tolist(), risk)
        chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
        return chosen

    def novelty(self, clip: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return `[B]` how unusual pictures are beside the shots, in [0, 1).

        Args:
            clip: `[B, D]` raw features of the untouched CLIP.
            known: Rows of the trained names that are asked about, at least one.
        """
        near = self.features[np.isin(self.labels, known)]
        apart = 1 - (unit(clip) @ near.T).max(axis=1)
        return self._novelty(len(self.labels) - np.searchsorted(self.distances, apart))

    def novelty_of_names(self, clip: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Return the same of pictures that were given names without shots: how ill the names fit them.

        Args:
            clip: `[B, D]` raw features of the untouched CLIP.
            texts: `[B, D]` raw text of the name of each.
        """
        close = (unit(clip) * unit(texts)).sum(axis=1)
        return self._novelty(np.searchsorted(self.texts, close, side="right"))

    def refused(self, novelty: np.ndarray) -> np.ndarray:
        """Return `[B]` of which pictures to say "none of these"."""
        return novelty >= MOST_NOVEL

    def _novelty(self, as_odd: np.ndarray) -> np.ndarray:
        shots = np.float32(len(self.labels) + 1)
        return 1 - (as_odd + 1).astype(np.float32) / shots


def unit(features: np.ndarray) -> np.ndarray:
    """Return features of unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
