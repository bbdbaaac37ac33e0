"""CHAP users: from flags, the environment, the file, or a file of secrets.

No message here ever shows what was written behind the name.
"""

from __future__ import annotations

from msgspec import UNSET

from target.config.errors import ConfigError
from target.config.file import read_text
from target.config.merge import Merged, Source, at
from target.config.model import ChapUser
from target.config.values import resolve

CHAP_USERS_MAX = 1024
CHAP_FILE_BYTES_MAX = 1 << 20
CHAP_USER_BYTES_MAX = 255
# RFC 7143, 9.2.1: at least 96 bits where IPsec does not protect the connection.
CHAP_SECRET_BYTES_MIN = 12
CHAP_SECRET_BYTES_MAX = 255


def chap_users(merged: Merged) -> tuple[ChapUser, ...]:
    """Who may log in: ``chap`` and ``chap-file`` of the strongest source that has either."""
    source = merged.source("chap", "chap-file")
    if source is None:
        return ()
    users: list[ChapUser] = []
    given = source.given("chap")
    if given is not UNSET:
        for index, text in enumerate(given if isinstance(given, list) else [given]):
            users.append(at(source.place("chap", index), parse_chap, text))
    if source.given("chap-file") is not UNSET:
        users += _read_chap_file(source, "chap-file")
    merged.check_list("chap", users, CHAP_USERS_MAX)
    merged.check_unique("chap", [user.user for user in users])
    return tuple(users)


def mutual_chap(merged: Merged, chap: tuple[ChapUser, ...]) -> ChapUser | None:
    """Who we are to an initiator that asks: ``mutual-chap`` or ``mutual-chap-file``."""
    source = merged.source("mutual-chap", "mutual-chap-file")
    if source is None:
        return None
    name = "mutual-chap" if source.given("mutual-chap") is not UNSET else "mutual-chap-file"
    if name == "mutual-chap":
        if source.given("mutual-chap-file") is not UNSET:
            raise merged.fail(name, "give either mutual-chap or mutual-chap-file")
        mutual = at(source.place(name), parse_chap, source.given(name))
    else:
        users = _read_chap_file(source, name)
        if len(users) != 1:
            raise merged.fail(name, f"must hold one USER:SECRET, not {len(users)}")
        mutual = users[0]
    if not chap:
        raise merged.fail(name, "needs a chap user: an initiator has to prove itself first")
    if any(user.secret == mutual.secret for user in chap):
        raise merged.fail(name, "its secret must differ from those of the chap users")
    return mutual


def _read_chap_file(source: Source, name: str) -> list[ChapUser]:
    path = at(source.place(name), resolve, source.given(name), source.base)
    users = []
    for number, line in enumerate(read_text(path, CHAP_FILE_BYTES_MAX).split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            users.append(at(f"{path}:{number}", parse_chap, line.strip()))
    if not users:
        raise ConfigError(f"{path}: no USER:SECRET in it")
    return users


def parse_chap(text: str) -> ChapUser:
    """``USER:SECRET``; the secret begins behind the first colon.  No message shows the text."""
    user, colon, secret = text.partition(":")
    if not colon or not user:
        raise ValueError("bad CHAP user: write USER:SECRET")
    raw = secret.encode("utf-8", "surrogateescape")
    if len(user.encode("utf-8", "surrogateescape")) > CHAP_USER_BYTES_MAX or not user.isprintable():
        raise ValueError(
            f"bad CHAP user: the name must be up to {CHAP_USER_BYTES_MAX} printable characters"
        )
    if not CHAP_SECRET_BYTES_MIN <= len(raw) <= CHAP_SECRET_BYTES_MAX:
        raise ValueError(
            f"bad CHAP secret of user {user!r}: it must have "
            f"{CHAP_SECRET_BYTES_MIN} to {CHAP_SECRET_BYTES_MAX} bytes (RFC 7143, 9.2.1)"
        )
    if not secret.isprintable():
        raise ValueError(f"bad CHAP secret of user {user!r}: it holds unprintable characters")
    return ChapUser(user, raw)
