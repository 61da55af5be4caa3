"""The process `twophase`: how it begins and how it ends. `python -m twophase.coordinator` is the same.

Lives here: what must be set before gRPC is imported, and the ends that no verb can tell of. Must not live here: a verb
(`cli`). Modules load within `main`, so that an interruption meanwhile ends in no traceback.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""The exit code of a command that was interrupted before its verb ran."""
_PRINTERS: Final = ("typer", "click", "rich")


def main() -> None:
    """The console script."""
    # gRPC's own C++ log speaks past ours; what matters of it comes back as errors. It looks here when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # Without the threads of its event engine a message costs half the processor time on either side: one thread polls,
    # and no other has to be woken. docs/performance.md has the figures.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    try:
        from twophase.coordinator.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except UnicodeEncodeError as error:  # its text may be a DSN: it is not shown
        sys.exit(
            f"twophase: what was given, or is to be printed, cannot be written as {error.encoding}; give arguments in"
            " UTF-8, and have it printed so: PYTHONIOENCODING=utf-8"
        )
    except OSError as error:
        if not _while_printing(error):
            raise
        _end_unprinted(error)


def _while_printing(error: OSError) -> bool:
    """Whether it was raised where text is printed, and nothing else is done."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _PRINTERS


def _end_unprinted(error: OSError) -> NoReturn:
    # The interpreter would try once more at its end, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(
        f"twophase: the answer cannot be printed: {error.strerror}. What was to be done may be done; print to another"
        " place and look"
    )


if __name__ == "__main__":
    main()
