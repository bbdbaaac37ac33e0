"""The workers of a node, and how the way to them is protected."""

from __future__ import annotations

from pathlib import Path

from target.block.worker_address import WorkerAddress, WorkerTls
from target.config.file import read_text
from target.config.merge import Merged
from target.config.model import Portal
from target.config.values import is_loopback, parse_worker, resolve

WORKERS_MAX = 64
PEM_BYTES_MAX = 1 << 20


def workers(merged: Merged) -> tuple[WorkerAddress, ...]:
    """Where new volumes of a size are kept, in the order given."""
    if merged.source("worker") is None:
        return ()
    found = merged.many("worker", parse_worker, WorkerAddress())
    merged.check_list("worker", found, WORKERS_MAX)
    # Twice the same would have one share stand for two.
    merged.check_unique("worker", [str(address) for address in found])
    return found


def worker_tls(merged: Merged) -> WorkerTls | None:
    """The PEM files, read."""
    ca = _pem(merged, "worker-ca")
    certificate, key = _pem(merged, "worker-cert"), _pem(merged, "worker-key")
    if (certificate is None) != (key is None):
        name = "worker-cert" if key is None else "worker-key"
        raise merged.fail(name, "give worker-cert and worker-key, or neither")
    if ca is None:
        if certificate is not None:
            raise merged.fail("worker-cert", "needs worker-ca")
        return None
    return WorkerTls(ca, certificate, key)


def _pem(merged: Merged, name: str) -> bytes | None:
    source = merged.source(name)
    if source is None:
        return None

    def read(text: str) -> bytes | None:
        pem = read_text(resolve(text, source.base if source else Path()), PEM_BYTES_MAX)
        if "-----BEGIN " not in pem:
            raise ValueError(f"{text} holds no PEM")
        return pem.encode()

    return merged.one(name, read, None)


def worker_notes(merged: Merged) -> list[str]:
    """What deserves a warning."""
    if merged.source("worker-ca") is not None:
        return []
    return [
        f"data goes to worker {address} in the clear: no worker-ca is configured"
        for address in workers(merged)
        if not address.unix_path and not is_loopback(Portal(address.host, address.port))
    ]
