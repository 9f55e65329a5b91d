"""The one exception for what a person gave us and we cannot use."""


class InputError(ValueError):
    """Something given from outside cannot be used.

    Its message is one line that names the file (or the setting) and says what to do. The command line prints
    that line and exits with 2; anything else that escapes is a bug of ours.
    """


def printable(text: str) -> str:
    """Return text as one line for a terminal: what would steer it, and what is no Unicode, is escaped."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
