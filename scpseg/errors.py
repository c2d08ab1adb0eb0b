"""The one exception that means: the user can mend this."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which could rewrite a terminal, and the halves of characters that stand for undecodable bytes."""


class UserError(Exception):
    """A mistake in parameters, data or set-up.

    Its message is one sentence that says what is wrong, where (file, key, value) and what to do.
    The stages print it without a traceback and exit with status 1.
    """

    def __init__(self, message: str) -> None:
        """Control characters of `message`, which may quote what comes from outside, are escaped."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text with its control characters escaped, but for line ends."""
    return CONTROL.sub(lambda match: match[0] if match[0] == "\n" else ascii(match[0])[1:-1], text)
