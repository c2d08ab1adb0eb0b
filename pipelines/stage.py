"""How every stage starts and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from scpseg.errors import UserError


def run_stage(work: Callable[[], None]) -> NoReturn:
    """Run a stage and exit: 0, or 1 after one sentence for a user's mistake, or 130 when interrupted."""
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr, flush=True)
        sys.exit(130)
    sys.exit(0)
