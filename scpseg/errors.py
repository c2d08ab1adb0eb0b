"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in parameters, data or set-up.

    Its message is one sentence that says what is wrong, where (file, key, value) and what to do.
    The stages print it without a traceback and exit with status 1.
    """

    def __init__(self, message: str) -> None:
        """Control characters of `message`, which may quote what comes from outside, are escaped."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text without control characters, which could rewrite a terminal, and without halves of characters."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
