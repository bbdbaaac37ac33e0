"""``python -m target.cli`` is ``lunmesh``."""

from target.cli import main

main()
