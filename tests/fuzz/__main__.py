"""``python -m tests.fuzz --streams N --seed S``: the fuzzer by hand, for as long as wanted."""

from __future__ import annotations

import argparse
import time

from tests.fuzz.run import Fuzzer


def main() -> None:
    """Run, and say what was seen; a finding ends in its traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--streams", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    started = time.monotonic()
    print(Fuzzer(given.seed).run(given.streams))
    print(f"{time.monotonic() - started:.0f} s")


main()
