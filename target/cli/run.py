"""Runs one command line, and turns whatever goes wrong into one line and an exit status.

Exit status: 0 it is done; 1 it could not be done, or not on every node yet; 2 the command line or
the configuration is wrong.  With ``--json`` the line is a problem of RFC 9457.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import typer

from target.cli.app import app
from target.cli.errors import CliError, explain
from target.config.errors import ConfigError

LINE_CHARS_MAX = 1000
JSON_FLAG = "--json"  # looked for in the arguments: what is wrong may be the command line itself
TITLES = {1: "Not done", 2: "Wrong command line or configuration"}  # by exit status
TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
SURROGATES = "surrogates not allowed"  # what is not UTF-8 in an argument, to whoever encodes it
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
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def guarded(work: Callable[[], int], args: Sequence[str]) -> int:
    """The exit status of ``work``, or that of what it raises, which is said in a line."""
    fail = partial(_fail, as_json=JSON_FLAG in args)
    try:
        return work()
    except typer.TyperException as exc:
        return fail(_usage(exc.format_message(), args), exc.exit_code)
    except CliError as exc:
        return fail(str(exc), exc.status, exc.problem)
    except ConfigError as exc:
        return fail(str(exc), 2)
    except BrokenPipeError:
        # The reader has seen enough.  The interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", 1)
    except OSError as exc:
        return fail(explain(exc), 1)
    except Exception as exc:
        if isinstance(exc, UnicodeEncodeError) and exc.reason == SURROGATES:
            return fail("an argument is not UTF-8", 2)  # nor repeated: it may be a secret
        if os.environ.get(ENV_TRACEBACK):
            traceback.print_exc()
        return fail(f"internal error: {type(exc).__name__}: {exc}", 1)


def _usage(message: str, args: Sequence[str]) -> str:
    """Typer's complaint in our style; a secret may stand in it by a slip of the hand."""
    if args[:1] == ["user"] or any("chap" in arg for arg in args):
        message = message.partition(" (")[0].partition("=")[0]
    return message[:1].lower() + message[1:]


def _fail(
    message: str, status: int, problem: Mapping[str, Any] | None = None, *, as_json: bool
) -> int:
    line = " ".join(message.split())
    line = "".join(char if char.isprintable() else "?" for char in line)[:LINE_CHARS_MAX]
    said = f"lunmesh: {line}"
    if as_json:
        told = {"title": TITLES.get(status, TITLES[1]), **(problem or {}), "detail": line}
        said = msgspec.json.encode(told).decode()
    with contextlib.suppress(OSError):  # nobody left to tell
        print(said, file=sys.stderr, flush=True)
    return status
