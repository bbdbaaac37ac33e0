"""A configuration without its secrets."""

from __future__ import annotations

import msgspec
import pytest

from target.config import Options, load_serve_config
from target.config.shown import secrets_of, shown

SECRETS = {"redis": "r%2Fpw", "chap": "alice-knows-it", "mutual": "target-knows-it"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://u:r%2Fpw@h:1", "redis://u:***@h:1"),
        ("redis://:r%2Fpw@h", "redis://:***@h"),
        ("redis+sentinel://u:r%2Fpw@h:1,g:2/s", "redis+sentinel://u:***@h:1,g:2/s"),
        ("unix:///a/b", "unix:///a/b"),
    ],
)
def test_passwords_and_secrets_are_hidden(url: str, told: str) -> None:
    options = Options(
        redis=url,
        worker="localhost:1",
        chap=f"alice:{SECRETS['chap']}",
        mutual_chap=f"it:{SECRETS['mutual']}",
    )
    config = load_serve_config(options, file=None, environ={})
    found = shown(config)
    assert found["cluster"]["url"] == told
    assert (found["chap"], found["mutual_chap"]) == (["alice"], "it")
    text = msgspec.json.encode(found).decode()
    assert not any(secret in text for secret in SECRETS.values())
    known = secrets_of(config)
    assert {SECRETS["chap"], SECRETS["mutual"]} <= set(known)
    assert ("r/pw" in known) == ("***" in told)
