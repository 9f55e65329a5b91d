"""`InputError`, the exception for input that cannot be used."""

SKIP = ', or pass on_bad="skip"'
"""End of the remedy for a bad picture; removed where nothing can be skipped."""

GPU_IS_FULL = "the GPU's memory is full: take a smaller --batch-size, or --device cpu"
"""Message of an error of PyTorch."""


class InputError(ValueError):
    """An input cannot be used: a file, a setting or an argument.

    The message is one line that names the file or the setting and a remedy. The command line prints this
    line and exits with 2. Any other exception that reaches the user is a bug.
    """


def printable(text: str) -> str:
    """Return text for one terminal line: control characters and invalid Unicode are escaped."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape").decode()
        for character in text
    )
