"""What must not be left over: tasks, buffer segments, places in the command window, waits.

`assert_idle` holds whenever no command is under way, `assert_clean` when nobody is connected.
"""

from __future__ import annotations

from target.iscsi.target import IscsiTarget
from target.scsi.disk import DiskDevice


def assert_idle(target: IscsiTarget) -> None:
    """No command is anywhere, and everything that commands need has come back."""
    pool = target.pool
    for session in target.sessions.values():
        assert not session.tasks, f"tasks are left: {list(session.tasks.values())}"
        assert not session.leaving, f"tasks are still leaving: {session.leaving}"
        assert not session.held, "commands that came too early are left"
        assert session.share.held == 0, f"{session.share.held} segments are left"
        assert session.share.reserved_out == 0, "reserved segments are left"
        window = session.window
        if window is not None:
            places = session.max_cmd_sn + 1 - session.exp_cmd_sn & 0xFFFFFFFF
            assert places == window.credits, f"{places} places of {window.credits} are open"
            assert window.immediate == 0, "immediate commands are still counted"
            assert session.management_tasks == 0, "task management functions are still counted"
    for unit in (*target.bus.units.values(), target.bus.absent):
        assert not unit.tasks_of(), f"the unit has commands: {unit.tasks_of()}"
        assert not unit._waits, "somebody waits for an abort"
        assert not unit._gated, "the task set is gated by nothing"
        if isinstance(unit.device, DiskDevice):
            assert unit.device.volume._ranges.idle, "byte ranges are locked"
    assert pool.waiting == 0, "somebody waits for buffers"
    assert pool.used == 0, f"{pool.used} segments are out"
    assert len(set(map(id, pool.free))) == pool.segments_total, "a segment was given back twice"


def assert_clean(target: IscsiTarget) -> None:
    """The target is as it was before anybody came."""
    assert_idle(target)
    assert not target.sessions, "sessions are left"
    assert not target.channels, "channels are left"
    assert not target._ending, "sessions are still ending"
    assert not target.bus.nexuses, "nexuses are left"
    for unit in (*target.bus.units.values(), target.bus.absent):
        assert not unit.attachments, "attachments are left"
    pool = target.pool
    assert not pool.shares, "shares are left"
    assert pool.reserved == 0, f"{pool.reserved} segments are still reserved"
    assert pool.spare == pool.unreserved_total, "spare segments are missing"
