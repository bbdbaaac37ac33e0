"""``python -m tests.support.next_format serve …``: a node of a version that has the next format of
what is in Redis, and understands the one that this version has.  They differ in their number alone.
"""

from __future__ import annotations

from functools import partial

from target import clustering
from target.cli import main
from target.cluster.redis_registry import KNOWN, Formats, RedisRegistry

if __name__ == "__main__":
    formats = Formats(KNOWN.newest, KNOWN.newest + 1)
    clustering.RedisRegistry = partial(RedisRegistry, formats=formats)  # type: ignore
    main()
