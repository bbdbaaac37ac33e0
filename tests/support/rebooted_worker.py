"""``python -m tests.support.rebooted_worker FILE worker …``: on a machine whose boot is FILE.

Another content of FILE is another boot: what was not flushed in the last one may be lost.
"""

from __future__ import annotations

import sys
from pathlib import Path

from target.cli import main
from workers import share_dir

if __name__ == "__main__":
    share_dir.BOOT_ID = Path(sys.argv.pop(1))  # type: ignore[misc]  # it is Final
    main()
