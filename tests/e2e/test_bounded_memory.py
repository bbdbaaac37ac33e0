"""Design.md §3: nothing in the server grows with what the initiators ask for."""

from pathlib import Path

import pytest

from tests.bench.memory import Load, run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixteen_sessions_of_deep_large_commands_stay_within_the_pool(tmp_path: Path) -> None:
    load = Load()
    outcome = run(load, tmp_path)
    assert outcome.answered == load.sessions * load.commands
    # Waiting is the answer to a short pool (design.md §3), not an error.
    assert set(outcome.statuses) == {0}
    assert outcome.wrong_reads == 0
    # A session's window may close, but one that never opens this far would not load the pool.
    assert outcome.deepest * load.sessions * load.command_bytes > load.buffer_bytes
    assert outcome.peak_bytes <= load.limit_bytes, f"peak {outcome.peak_bytes >> 20} MiB"
