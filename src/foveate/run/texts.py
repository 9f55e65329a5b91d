"""Encodes class names to class texts with the text towers of an exported model; and its trust, in numpy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.configs import Position
from foveate.methods.prompt_rows import prompt_row
from foveate.run.folder import Texts
from foveate.trust.promises import MOST_NOVEL, demand_promises

Run = Callable[[str, Mapping[str, np.ndarray]], list[np.ndarray]]
"""Runs a graph, given by name, on inputs by name."""

Row = list[tuple[int, int]]

_BATCH = 256
"""Texts in one pass."""


class ClassTexts(NamedTuple):
    """Text features of class names.

    Attributes:
        text: `[C, D]` class texts; `[C, 0]` for a model whose texts depend on the picture.
        prior: `[C, D]` unit texts of CLIP's prior, or their mean; `[C, 0]` if there is no prior.
        reference: `[C, D]` raw zero-shot texts, for the novelty of new names; `[C, 0]` if not needed.
    """

    text: np.ndarray
    prior: np.ndarray
    reference: np.ndarray

    def rows(self, rows: Any) -> "ClassTexts":
        """Return some of the names."""
        return ClassTexts(*(side[rows] for side in self))


class TextReader:
    """Makes the class texts of names that were not exported.

    Args:
        texts: How class texts are made.
        tokenizer: Tokenizer of the text tower.
        vectors: `[P, M, W]` learned vectors of each prompt.
        run: Runs a graph.
    """

    def __init__(self, texts: Texts, tokenizer: ClipTokenizer, vectors: np.ndarray, run: Run):
        self.texts, self.tokenizer, self.vectors, self._run = texts, tokenizer, vectors, run

    def check(self, names: Sequence[str]) -> None:
        """Refuse names that are too long for the text tower.

        Raises:
            InputError: A name is too long, or the model cannot use new names; the message gives the name.
        """
        if self.texts.kind == "fixed":
            raise InputError(
                f"class {names[0]!r} was not trained on, and this model has vectors for trained classes"
                " alone: ask about these, or train a model that takes new names"
            )
        for sentence in filter(None, (self.texts.sentence, *self._clip_sentences())):
            self._sentences(sentence, names)
        if self.texts.positions:
            self._prompts(names, self.texts.positions[0])

    def read(self, names: Sequence[str]) -> ClassTexts:
        """Return the texts of names that `check` has not refused."""
        empty = np.zeros((len(names), 0), np.float32)
        clip = {sentence: self.plain(sentence, names) for sentence in self._clip_sentences()}
        prior = [unit(clip[sentence]) for sentence in self.texts.prior_sentences]
        reference = self.texts.reference
        return ClassTexts(
            empty if self.texts.kind == "shifted" else self._tuned(names, clip),
            np.mean(prior, axis=0) if prior else empty,
            empty if reference is None else clip[reference],
        )

    def _clip_sentences(self) -> set[str]:
        """Return the sentences that the unchanged CLIP encodes."""
        texts = self.texts
        sentences = {texts.sentence} if texts.kind in ("plain", "known") else set[str]()
        return sentences | set(texts.prior_sentences) | ({texts.reference} if texts.reference else set())

    def _tuned(self, names: Sequence[str], clip: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return `[C, D]` class texts of the method; `clip` has those of the unchanged CLIP, by sentence."""
        texts = self.texts
        if texts.kind == "plain":
            return clip[texts.sentence]
        if texts.kind == "sentence":
            return self._encode("text", self._sentences(texts.sentence, names))
        extra = {"known": clip[texts.sentence]} if texts.kind == "known" else {}
        prompts = [
            self._encode("text", self._prompts(names, position), vectors, extra)
            for position, vectors in zip(texts.positions, self.vectors, strict=True)
        ]
        return prompts[0] if texts.kind != "mean" else np.mean([unit(text) for text in prompts], axis=0)

    def plain(self, sentence: str, names: Sequence[str]) -> np.ndarray:
        """Return features `[C, D]` of the unchanged CLIP for names in a sentence."""
        return self._encode("plain", self._sentences(sentence, names))

    def shifted(self, names: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Return `[B, C, D]` class texts with vectors `[B, M, W]` of each picture."""
        rows = self._prompts(names, self.texts.positions[0])
        return np.stack([self._encode("text", rows, picture_vectors) for picture_vectors in vectors])

    def _sentences(self, sentence: str, names: Sequence[str]) -> list[Row]:
        return [[(token, -1) for token in self.tokenizer.sentence(sentence, name)] for name in names]

    def _prompts(self, names: Sequence[str], position: Position) -> list[Row]:
        slots, words = range(self.texts.vectors), self.texts.words
        spaced = [name.replace("_", " ") for name in names]
        return [prompt_row(self.tokenizer, name, slots, position, words) for name in spaced]

    def _encode(
        self,
        graph: str,
        rows: Sequence[Row],
        vectors: np.ndarray | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Return raw features of rows; padding after EOT has no effect in a causal tower."""
        features: list[np.ndarray] = []
        for start in range(0, len(rows), _BATCH):
            chunk = rows[start : start + _BATCH]
            padded = np.zeros((2, len(chunk), max(map(len, chunk))), np.int64)
            padded[1] = -1
            for index, row in enumerate(chunk):
                padded[:, index, : len(row)] = np.array(row).T
            inputs = {"ids": padded[0], "ends": np.array([len(row) - 1 for row in chunk])}
            if vectors is not None:
                inputs |= {"slots": padded[1], "vectors": vectors}
            inputs |= {name: array[start : start + _BATCH] for name, array in (extra or {}).items()}
            features += self._run(graph, inputs)
        return np.concatenate(features)


# The trust of an exported model, as in `foveate.trust`, in numpy.


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
