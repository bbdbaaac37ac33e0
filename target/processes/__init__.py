"""``lunmesh serve --processes N``: several nodes of the cluster behind the same portals.

A supervisor listens, looks at who logs in (``first_pdu.py``, ``front.py``) and passes the
connection to one of its processes (``child.py``), which takes it where a listener would have given
it (``inlet.py``).  Each process is a node like any other: docs/decisions/0021-processes.md.
"""
