"""Throw-away certificates for TLS tests, made with the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, timeout=60)


def make_authority(folder: Path, name: str) -> Path:
    """A certificate authority: ``NAME.pem`` beside ``NAME.key``."""
    certificate = folder / f"{name}.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        "req", "-x509", *curve, "-days", "2", "-subj", f"/CN={name}",
        "-keyout", folder / f"{name}.key", "-out", certificate,
    )  # fmt: skip
    return certificate


def make_certificate(folder: Path, authority: Path, name: str, more: str = "") -> tuple[Path, Path]:
    """(certificate, key) of ``name``, good for 127.0.0.1 and localhost, signed by ``authority``.

    ``more`` are further alternative names, as openssl writes them: ``,DNS:a,URI:b``.
    """
    certificate, key, request = (folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost{more}\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    _openssl(
        "x509", "-req", "-in", request, "-days", "2", "-CAcreateserial", "-extfile", extensions,
        "-CA", authority, "-CAkey", authority.with_suffix(".key"), "-out", certificate,
    )  # fmt: skip
    return certificate, key
