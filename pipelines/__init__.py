"""One module per DVC stage: read parameters, call the library, write outputs."""

import os
import sys
from types import TracebackType

from scpseg.errors import UserError
from scpseg.processes import end_with_parent

POSIX = ("fcntl", "resource", "termios")
"""Standard modules that Windows does not have."""


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for Ctrl-C, a UserError or a missing system module before `run_stage` is available."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    elif issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    elif isinstance(error, ModuleNotFoundError) and error.name in POSIX:
        why = f"this system has no module {error.name}"
        print(f"error: this command needs Linux or macOS ({why}): on Windows, use WSL 2", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quiet
if "DVC_STAGE" in os.environ:
    # A stage ends with the DVC process that started it, even while it imports; a training saves its state first.
    end_with_parent()
