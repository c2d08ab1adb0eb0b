"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in parameters, data or set-up.

    Its message is one sentence that says what is wrong, where (file, key, value) and what to do.
    The stages print it without a traceback and exit with status 1.
    """
