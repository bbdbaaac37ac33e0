"""The PEM files of a server: whether they are what they have to be, in one line."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(
    what: str, certificate: Path, key: Path, client_ca: Path | None, *, used: bool = True
) -> ssl.SSLContext:
    """Of ``what``, which its errors begin with.  Raises OSError.

    ``used`` by somebody else, who may take shorter keys than OpenSSL does here: False.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if not used:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    try:
        context.load_cert_chain(certificate, key, password=_no_pass_phrase)
    except OSError as exc:
        raise _named(exc, f"{what} certificate {certificate} or key {key}") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except OSError as exc:
            raise _named(exc, f"{what} client CA {client_ca}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_pass_phrase() -> str:
    """OpenSSL would ask at the terminal and wait there."""
    raise OSError("the key needs a pass phrase, which nobody is asked for")


def _named(exc: OSError, place: str) -> OSError:
    if isinstance(exc, ssl.SSLError):  # its number is OpenSSL's own
        return OSError(f"{place}: {_reason(exc)}")
    if exc.errno is None:
        return OSError(f"{place}: {exc}")
    return OSError(exc.errno, exc.strerror, place)


def _reason(exc: ssl.SSLError) -> str:
    """``key values mismatch``; OpenSSL has none for what is no PEM at all."""
    return exc.reason.replace("_", " ").lower() if exc.reason else "no PEM, or not of this kind"
