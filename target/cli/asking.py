"""What all commands that ask a running node have in common.

With ``--json`` a command that changes something prints what there is then (``tell``, ``deleted``);
what goes wrong is said by ``run.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Final

import msgspec

from target.admin.client import AdminClient, NodeAway, Refused
from target.cli.caller import caller
from target.cli.errors import CliError
from target.config.model import ADMIN_PORT_DEFAULT
from target.config.values import parse_portal
from target.volume_errors import NotEverywhere

ADMIN_DEFAULT: Final = f"127.0.0.1:{ADMIN_PORT_DEFAULT}"
PIPE_COLUMNS: Final = 200  # a pipe has no width


@contextlib.contextmanager
def asked_node(admin: str | None) -> Iterator[AdminClient]:
    """The node at that address.  Raises CliError for whatever it cannot do."""
    try:
        address = parse_portal(admin or ADMIN_DEFAULT, ADMIN_PORT_DEFAULT)
    except ValueError as exc:
        raise CliError(f"--admin: {exc}".replace("bad portal", "bad address"), 2) from exc
    try:
        yield caller(address)
    except NodeAway as exc:
        raise CliError(str(exc), problem={"title": "No node answers"}) from exc
    except NotEverywhere as exc:
        raise CliError(
            f"done, but not on every node yet: {exc}; what is missing follows by itself, see"
            " lunmesh node list",
            problem={
                "title": "Not on every node yet",
                "status": HTTPStatus.ACCEPTED,
                "pending": exc.late,
            },
        ) from exc
    except Refused as exc:
        # A bad request is wrong whatever the node does.
        status = 2 if exc.problem.status == HTTPStatus.BAD_REQUEST else 1
        raise CliError(str(exc), status, msgspec.structs.asdict(exc.problem)) from exc


def whole(name: str, text: str | None, default: int) -> int:
    """The number behind ``--name``.  Raises CliError."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise CliError(f"--{name}: must be a whole number, not {text!r}", 2)
    return int(text)


def print_json(value: object) -> None:
    """As a program reads it."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_facts(value: object, lines: Iterable[tuple[str, str]], as_json: bool) -> None:
    """One thing, a line for each of its facts."""
    if as_json:
        print_json(value)
        return
    for name, fact in lines:
        print(f"{name:<10} {fact}")


def tell(value: object, as_json: bool) -> None:
    """What there is after a change, for a program; people see that nothing went wrong."""
    if as_json:
        print_json(value)


def deleted(what: object, as_json: bool) -> None:
    """What there is no more."""
    tell({"deleted": what}, as_json)
