"""CHAP as an initiator does it (RFC 1994, RFC 7143 §12.1.3), for tests."""

import hashlib
import secrets
from collections.abc import Mapping

# The number that CHAP_A has for each.
ALGORITHMS = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}


def response(algorithm: int, identifier: int, secret: str, challenge: bytes) -> bytes:
    message = bytes([identifier]) + secret.encode() + challenge
    return hashlib.new(ALGORITHMS[algorithm], message, usedforsecurity=False).digest()


def binary(value: bytes) -> str:
    return "0x" + value.hex()


def from_text(value: str) -> bytes:
    if value[:2].lower() != "0x":
        raise ValueError(f"a binary value in hexadecimal was expected: {value}")
    return bytes.fromhex(value[2:])


class Answer:
    """The answer to a target's challenge; with `mutual`, a challenge to the target in it."""

    def __init__(
        self, challenge_keys: Mapping[str, str], user: str, secret: str, *, mutual: bool
    ) -> None:
        self.algorithm = int(challenge_keys["CHAP_A"])
        digest = response(
            self.algorithm,
            int(challenge_keys["CHAP_I"]),
            secret,
            from_text(challenge_keys["CHAP_C"]),
        )
        self.keys = {"CHAP_N": user, "CHAP_R": binary(digest)}
        self._identifier = secrets.randbelow(256)
        self._challenge = secrets.token_bytes(16)
        if mutual:
            self.keys |= {"CHAP_I": str(self._identifier), "CHAP_C": binary(self._challenge)}

    def proves(self, keys: Mapping[str, str], user: str, secret: str) -> bool:
        """Whether the target's own answer shows that it knows its secret."""
        expected = response(self.algorithm, self._identifier, secret, self._challenge)
        return keys.get("CHAP_N") == user and from_text(keys.get("CHAP_R", "0x")) == expected
