"""What is wrong with the PEM files of a server is said in one line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from target.cli.errors import explain
from target.config.tls import server_context
from tests.support.certificates import make_authority

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    """``a``, ``b``: certificate and key; ``locked.key`` is that of ``a`` behind a pass phrase."""
    for name in "ab":
        make_authority(tmp_path, name)
    key, locked = str(tmp_path / "a.key"), str(tmp_path / "locked.key")
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "junk").write_text("junk")
    return tmp_path


@pytest.mark.parametrize(
    ("certificate", "key", "ca", "problem"),
    [
        ("a.pem", "b.key", None, "certificate {0}/a.pem or key {0}/b.key: key values mismatch"),
        ("a.pem", "none", None, "certificate {0}/a.pem or key {0}/none: no such file or directory"),
        ("junk", "a.key", None, "certificate {0}/junk or key {0}/a.key: no PEM, or not of this"),
        ("a.pem", "locked.key", None, "key {0}/locked.key: the key needs a pass phrase"),
        ("a.pem", "a.key", "none", "client CA {0}/none: no such file or directory"),
        ("a.pem", "a.key", "junk", "client CA {0}/junk: no certificate"),
    ],
)
def test_what_is_wrong(
    pems: Path, certificate: str, key: str, ca: str | None, problem: str
) -> None:
    with pytest.raises(OSError, match="admin ") as raised:
        server_context("admin", pems / certificate, pems / key, None if ca is None else pems / ca)
    line = explain(raised.value)
    assert line.startswith("admin ")
    assert problem.format(pems) in line


def test_what_is_right(pems: Path) -> None:
    server_context("admin", pems / "a.pem", pems / "a.key", pems / "b.pem")


def test_a_short_key_is_for_whoever_uses_it_to_refuse(tmp_path: Path) -> None:
    """gRPC takes it, whose library is not this OpenSSL."""
    certificate, key = str(tmp_path / "a.pem"), str(tmp_path / "a.key")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=a"]
    command += ["-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(OSError, match="ee key too small"):
        server_context("admin", Path(certificate), Path(key), None)
    server_context("worker", Path(certificate), Path(key), None, used=False)
