"""Several nodes, one disk: who is alive, whose commands run where, and what all nodes have to do.

Beside ``target/scsi`` and ``target/block``; knows nothing of iSCSI.  A node without ``--redis`` has
none of it.

    node.py        one node: its lease, and what it does when another one's is over
    lun.py         one logical unit: the gate that its commands pass, events for all nodes
    registry.py    what both ask of the state that all nodes share: the interface
    redis_registry.py, lunmesh.lua, redis_link.py    ... in Redis
    memory_registry.py                               ... in memory, for simulations
    footprint.py   how much it keeps
"""
