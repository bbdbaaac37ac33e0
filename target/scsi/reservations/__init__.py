"""Reservations: who may use a logical unit, by RESERVE/RELEASE and PERSISTENT
RESERVE (SPC-4 5.13).

    names.py        I_T nexuses by name; iSCSI TransportIDs
    state.py        what there is to know of one logical unit; what may run under it
    persistent.py   PERSISTENT RESERVE OUT as functions from one state to the next
    exclusive.py    RESERVE and RELEASE of SPC-2 likewise
    keeper.py       the reservations of one unit in force: one change at a time, kept, then told
    owed.py         what has been kept and may have to be told again
    commands.py     the rows of the opcode table; CDBs, parameter lists and parameter data

They are kept as a document (``../documents.py``).

Rules:

1. An I_T nexus is known by its names alone: a registration outlives its session, a restart, and
   means the same on every node.
2. Functions decide (state.py, persistent.py, exclusive.py); keeper.py acts on what they say.
3. A change is kept, then in force on every node, then answered.
4. A command is checked when it is its turn to run.  What runs already goes on.
"""
