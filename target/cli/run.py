"""Runs one command line, and turns whatever goes wrong into one line and an exit status.

Exit status: 0 it is done; 1 it could not be done; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import typer

from target.cli.app import app
from target.cli.errors import CliError, explain
from target.config.errors import ConfigError

LINE_CHARS_MAX = 1000
TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
# For whoever hunts a bug of ours: shows where an unexpected exception came from.
ENV_TRACEBACK = "LUNMESH_TRACEBACK"


def run(args: Sequence[str]) -> int:
    """Run ``args`` and return the exit status."""
    return guarded(partial(_command, args), args)


def _command(args: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    # Without a command there is nothing to do but to say what there is.
    status = command.main(args=list(args) or ["--help"], prog_name="lunmesh", standalone_mode=False)
    sys.stdout.flush()
    if status == TYPER_INTERRUPTED:
        return _fail("interrupted", 1)
    return status if isinstance(status, int) else 0


def guarded(work: Callable[[], int], args: Sequence[str]) -> int:
    """The exit status of ``work``, or that of what it raises, which is said in a line."""
    try:
        return work()
    except typer.TyperException as exc:
        return _fail(_usage(exc.format_message(), args), exc.exit_code)
    except CliError as exc:
        return _fail(str(exc), exc.status)
    except ConfigError as exc:
        return _fail(str(exc), 2)
    except BrokenPipeError:
        # The reader has seen enough.  The interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 1)
    except OSError as exc:
        return _fail(explain(exc), 1)
    except Exception as exc:
        if os.environ.get(ENV_TRACEBACK):
            traceback.print_exc()
        return _fail(f"internal error: {type(exc).__name__}: {exc}", 1)


def _usage(message: str, args: Sequence[str]) -> str:
    """Typer's complaint in our style; a secret may stand in it by a slip of the hand."""
    if args[:1] == ["user"] or any("chap" in arg for arg in args):
        message = message.partition(" (")[0].partition("=")[0]
    return message[:1].lower() + message[1:]


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    with contextlib.suppress(OSError):  # nobody left to tell
        print(f"lunmesh: {line[:LINE_CHARS_MAX]}", file=sys.stderr, flush=True)
    return status
