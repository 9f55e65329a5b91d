"""The trust of an exported model, as in `foveate.trust`, in numpy."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foveate.trust.promises import MOST_NOVEL, demand_promises


@dataclass(frozen=True)
class ExportedTrust:
    """Computes novelty, sets of names and refusals; see `foveate.trust.trust.Trust`.

    Attributes:
        features: `[N, D]` unit features of the shots, from the unchanged CLIP.
        labels: `[N]` labels of the shots (rows of the trained names).
        distances: `[N]` distance of each shot to the nearest other one, in ascending order.
        texts: `[N]` cosine of each shot and the text of its name, in ascending order.
        truths: `[M]` probability of the true name for each held-back shot, in ascending order.
    """

    features: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    texts: np.ndarray
    truths: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "ExportedTrust":
        """Build it from saved arrays; features may be saved in 16 bits, if that is exact."""
        features = arrays["features"].astype(np.float32)
        return cls(features, *(arrays[name] for name in ("labels", "distances", "texts", "truths")))

    def demand(self, risk: float | None, *, refusals: bool) -> None:
        """Refuse a risk or refusals that it cannot promise.

        Raises:
            InputError: There are too few shots or held-back shots, or `risk` is not in (0, 1).
        """
        demand_promises(self.truths.tolist(), len(self.labels), risk, refusals=refusals)

    def novelty(self, clip: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the novelty `[B]` of pictures compared with the shots, in [0, 1).

        Args:
            clip: `[B, D]` raw features of the unchanged CLIP.
            known: Rows of the trained names to choose from, at least one.
        """
        neighbours = self.features[np.isin(self.labels, known)]
        distances = 1 - (unit(clip) @ neighbours.T).max(axis=1)
        return self._novelty(len(self.labels) - np.searchsorted(self.distances, distances))

    def novelty_of_names(self, clip: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Return the novelty of pictures whose answer is a name without shots, compared with its text.

        Args:
            clip: `[B, D]` raw features of the unchanged CLIP.
            texts: `[B, D]` raw text of each picture's name.
        """
        similarities = (unit(clip) * unit(texts)).sum(axis=1)
        return self._novelty(np.searchsorted(self.texts, similarities, side="right"))

    def refused(self, novelty: np.ndarray) -> np.ndarray:
        """Return `[B]` whether the answer should be "none of these"."""
        return novelty >= MOST_NOVEL

    def _novelty(self, as_unusual: np.ndarray) -> np.ndarray:
        shots = np.float32(len(self.labels) + 1)
        return 1 - (as_unusual + 1).astype(np.float32) / shots


def unit(features: np.ndarray) -> np.ndarray:
    """Return features of unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
