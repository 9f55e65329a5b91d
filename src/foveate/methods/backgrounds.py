"""DAPT's background texts, read by a host as it is tuned.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from foveate.clip.rows import Rows
from foveate.clip.text import check_texts
from foveate.errors import InputError
from foveate.methods.background_texts import DISTRACTORS, FOOD, GENERIC, backgrounds_for, without_collisions
from foveate.methods.base import Method
from foveate.methods.dapt_config import DaptConfig
from foveate.methods.kept import Kept, tensors_of
from foveate.types import TextFeatures


class Backgrounds:
    """Which background words the classes leave, and their texts.

    Args:
        host: Reads them; its classes decide.
        config: Settings of DAPT.
    """

    def __init__(self, host: Method, config: DaptConfig):
        self._host, self._config = host, config
        self._words: tuple[object, tuple[list[str], list[str]]] = (None, ([], []))
        self._rows: tuple[list[str], Rows] | None = None
        self._kept = Kept()

    def check(self) -> None:
        """Refuse words that leave no room before anything is trained: some are first read in a late epoch.

        Raises:
            InputError: A sentence is longer than the text tower reads.
        """
        wanted, template = self._config.backgrounds or GENERIC + FOOD, self._config.background_template
        try:
            check_texts(self._host.clip, wanted, template)
            self._host.lay_out_others(wanted, template)
        except InputError as error:
            raise InputError(f"dapt: background texts: {error}") from error

    def names(self) -> list[str]:
        """Return the words of the background texts."""
        return self._split()[0][self.among_classes :]

    def dropped(self) -> list[str]:
        """Return the words that were left out because they name a class."""
        return self._split()[1]

    def encode(self) -> TextFeatures:
        """Return raw features `[Q + K, D]`, with gradient to whatever the host learns of texts.

        The first Q are words put among the classes, see `among_classes`; K are the backgrounds.
        """
        rows = self._laid_out()
        if self._host.tunes_text:
            return self._host.encode_others(rows)
        sources, key = tensors_of(self._host.clip.text), tuple(self._split()[0])
        return self._kept.get(key, sources, lambda: self._host.encode_others(rows))

    @property
    def among_classes(self) -> int:
        """How many words the released code leaves among the classes; 0 without its quirks."""
        return DISTRACTORS if self._config.official_quirks else 0

    def _split(self) -> tuple[list[str], list[str]]:
        """Return all words that are read, and those left out."""
        config, host = self._config, self._host
        if config.official_quirks:
            return [*GENERIC, *FOOD], []
        key = host.names, host.template  # looked at in each step, and slow with a thousand classes
        if self._words[0] != key:
            wanted = config.backgrounds or backgrounds_for(host.template)
            taken = host.names if config.on_collision == "drop" else []
            self._words = key, without_collisions(wanted, taken)
        return self._words[1]

    def _laid_out(self) -> Rows:
        """Return the texts as token rows; kept while the words are the same."""
        words = self._split()[0]
        if self._rows is None or self._rows[0] != words:
            rows = self._host.lay_out_others(words, self._config.background_template)
            self._rows = words, rows.to(self._host.clip.text.pos.device)
        return self._rows[1]
