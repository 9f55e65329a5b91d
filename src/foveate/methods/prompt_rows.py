"""A class name among learned vectors, as tokens; exported models use this module without PyTorch."""

from collections.abc import Sequence

from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.configs import Position


def prompt_row(
    tokenizer: ClipTokenizer, name: str, slots: range, position: Position, between: Sequence[int]
) -> list[tuple[int, int]]:
    """Return one prompt as (token id, slot) pairs; the slot of a word is -1.

    Args:
        tokenizer: Tokenizer of the text tower.
        name: Class name.
        slots: Slots of the learned vectors.
        position: Place of the name relative to the vectors.
        between: Token ids after the vectors.

    Raises:
        InputError: The prompt is longer than the context of the text tower.
    """
    words = [(token, -1) for token in tokenizer.words(f"{name}.")]
    learned = [(0, slot) for slot in slots] + [(token, -1) for token in between]
    split = len(tokenizer.words(name))  # the full stop stays last
    body, stop = words[:split], words[split:]
    before = {"end": len(learned), "middle": len(slots) // 2, "front": 0}[position]
    row = [(tokenizer.sot, -1), *learned[:before], *body, *learned[before:], *stop, (tokenizer.eot, -1)]
    excess = len(row) - tokenizer.context
    if excess > 0:
        raise InputError(
            f"class name {_short(name)} takes {len(words)} tokens with its full stop, and with {len(slots)}"
            f" learned ones the prompt is {excess} longer than the {tokenizer.context} that this CLIP reads:"
            " shorten the name"
        )
    return row


def _short(name: str) -> str:
    return repr(name) if len(name) <= 40 else f"{name[:40]!r}…"
