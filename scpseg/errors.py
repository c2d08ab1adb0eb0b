"""The exception for errors that the user can correct."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which could change a terminal, and surrogates, which represent undecodable bytes."""


class UserError(Exception):
    """An error in parameters, data or set-up that the user can correct.

    The message is one sentence: what is wrong, where (file, key, value), and what to do.
    The stages print it without a traceback and exit with status 1.
    """

    def __init__(self, message: str) -> None:
        """Escape the control characters of `message`, which may quote external text."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Escape the control characters of a text, except line ends."""
    return CONTROL.sub(lambda match: match[0] if match[0] == "\n" else ascii(match[0])[1:-1], text)
