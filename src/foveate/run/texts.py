"""Encodes class names to class texts with the text towers of an exported model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.configs import Position
from foveate.methods.prompt_rows import prompt_row
from foveate.run.folder import Texts
from foveate.run.trust import unit

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
