"""The one exception for what a person gave us and we cannot use."""


class InputError(ValueError):
    """Something given from outside cannot be used.

    Its message is one line that names the file (or the setting) and says what to do. The command line prints
    that line and exits with 2; anything else that escapes is a bug of ours.
    """
