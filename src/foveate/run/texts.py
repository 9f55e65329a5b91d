"""Class names to class texts, with the text towers of an exported model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foveate.clip.templates import fill
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.configs import Position
from foveate.methods.prompt_rows import prompt_row
from foveate.run.folder import Texts
from foveate.run.trust import unit

Run = Callable[[str, Mapping[str, np.ndarray]], list[np.ndarray]]
"""Runs a graph by its name on inputs by theirs."""

Row = list[tuple[int, int]]

_AT_ONCE = 256
"""Texts in one pass."""


class ClassTexts(NamedTuple):
    """What is kept of names.

    Attributes:
        text: `[C, D]` class texts; `[C, 0]` of a model whose texts depend on the picture.
        prior: `[C, D]` unit texts of CLIP's prior, or their mean; `[C, 0]` where nobody asks it.
        reference: `[C, D]` raw texts that new names are held against; `[C, 0]` where nobody does.
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
        texts: How they are made.
        tokenizer: Of the text tower.
        vectors: `[P, M, W]` learned vectors of each prompt.
        run: Runs a graph.
    """

    def __init__(self, texts: Texts, tokenizer: ClipTokenizer, vectors: np.ndarray, run: Run):
        self.texts, self.tokenizer, self.vectors, self._run = texts, tokenizer, vectors, run

    def check(self, names: Sequence[str]) -> None:
        """Refuse names that the text tower cannot read whole.

        Raises:
            InputError: It names the first; or no other names can be answered about at all.
        """
        if self.texts.kind == "fixed":
            raise InputError(
                f"class {names[0]!r} was not trained on, and this model has vectors for trained classes"
                " alone: ask about these, or train a model that takes new names"
            )
        for sentence in filter(None, (self.texts.sentence, *self._of_clip())):
            self._sentences(sentence, names)
        if self.texts.positions:
            self._prompts(names, self.texts.positions[0])

    def read(self, names: Sequence[str]) -> ClassTexts:
        """Return the texts of names that `check` has not refused."""
        nothing = np.zeros((len(names), 0), np.float32)
        clip = {sentence: self.plain(sentence, names) for sentence in self._of_clip()}
        prior = [unit(clip[sentence]) for sentence in self.texts.prior_sentences]
        reference = self.texts.reference
        return ClassTexts(
            nothing if self.texts.kind == "shifted" else self._tuned(names, clip),
            np.mean(prior, axis=0) if prior else nothing,
            nothing if reference is None else clip[reference],
        )

    def _of_clip(self) -> set[str]:
        """Return the sentences that the untouched CLIP reads."""
        texts = self.texts
        own = {texts.sentence} if texts.kind in ("plain", "known") else set[str]()
        return own | set(texts.prior_sentences) | ({texts.reference} if texts.reference else set())

    def _tuned(self, names: Sequence[str], clip: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return `[C, D]` class texts of the method; those of the untouched CLIP are there, by sentence."""
        texts = self.texts
        if texts.kind == "plain":
            return clip[texts.sentence]
        if texts.kind == "sentence":
            return self._encode("text", self._sentences(texts.sentence, names))
        more = {"known": clip[texts.sentence]} if texts.kind == "known" else {}
        prompts = [
            self._encode("text", self._prompts(names, position), vectors, more)
            for position, vectors in zip(texts.positions, self.vectors, strict=True)
        ]
        return prompts[0] if texts.kind != "mean" else np.mean([unit(one) for one in prompts], axis=0)

    def plain(self, sentence: str, names: Sequence[str]) -> np.ndarray:
        """Return `[C, D]` what the untouched CLIP says of names in a sentence."""
        return self._encode("plain", self._sentences(sentence, names))

    def shifted(self, names: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Return `[B, C, D]` class texts with vectors `[B, M, W]` of each picture."""
        rows = self._prompts(names, self.texts.positions[0])
        return np.stack([self._encode("text", rows, own) for own in vectors])

    def _sentences(self, sentence: str, names: Sequence[str]) -> list[Row]:
        tokenizer, rows = self.tokenizer, list[Row]()
        for name in names:
            ids = [tokenizer.sot, *tokenizer.words(fill(sentence, name)), tokenizer.eot]
            if len(ids) > tokenizer.context:
                raise InputError(
                    f"class name {name[:40]!r}… makes a sentence of {len(ids)} tokens, more than the"
                    f" {tokenizer.context} that this CLIP reads: shorten the name"
                )
            rows.append([(token, -1) for token in ids])
        return rows

    def _prompts(self, names: Sequence[str], position: Position) -> list[Row]:
        slots, words = range(self.texts.vectors), self.texts.words
        plain = [name.replace("_", " ") for name in names]
        return [prompt_row(self.tokenizer, name, slots, position, words) for name in plain]

    def _encode(
        self,
        graph: str,
        rows: Sequence[Row],
        vectors: np.ndarray | None = None,
        more: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Return raw features of rows, padded behind their EOT, where a causal tower does not look."""
        found: list[np.ndarray] = []
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            padded = np.zeros((2, len(some), max(map(len, some))), np.int64)
            padded[1] = -1
            for place, row in enumerate(some):
                padded[:, place, : len(row)] = np.array(row).T
            inputs = {"ids": padded[0], "ends": np.array([len(row) - 1 for row in some])}
            if vectors is not None:
                inputs |= {"slots": padded[1], "vectors": vectors}
            inputs |= {name: one[start : start + _AT_ONCE] for name, one in (more or {}).items()}
            found += self._run(graph, inputs)
        return np.concatenate(found)
