"""One module per DVC stage: read parameters, call the library, write outputs."""

import sys
from types import TracebackType

from scpseg.errors import UserError


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C or a user's mistake while a stage still imports: one line as from `run_stage`, which is not there yet."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    elif issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quiet
