"""`make bench ARGS=--spy`: what a process spends its CPU time in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.spy import EVENT_LOOP, OTHER_THREADS, PHASES, Spy, by_phase, phase_of, spied
from tests.support.lunmesh_server import PROJECT_ROOT

BUSY = """
import sys, threading, time

def burn(clock, seconds):
    until = clock() + seconds
    while clock() < until:
        pass

def rest(seconds):
    time.sleep(seconds)

for line in sys.stdin:
    burn(time.thread_time, 0.3)
    rest(0.3)
    if line == "thread\\n":
        other = threading.Thread(target=burn, args=(time.thread_time, 0.3))
        other.start()
        other.join()
    print("done", flush=True)
"""


@contextmanager
def busy() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        answered(process, "once")  # it has started
        yield process
        process.kill()


def answered(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    print(word, file=process.stdin, flush=True)
    assert process.stdout.readline() == "done\n"


def test_who_is_busy_is_found_and_who_sleeps_is_not(tmp_path: Path) -> None:
    with spied(tmp_path), busy() as process:
        with Spy(tmp_path, [process.pid]) as spy:
            answered(process, "once")
        spent = spy.spent(1000)
    assert spent[0].function.startswith("burn (")
    assert spent[0].looks > 10
    # 0.3 s of 1000 I/Os are 300 µs of each; ticks of a kernel are coarse.
    assert 150 < spent[0].microseconds < 600
    assert sum(it.share for it in spent if "rest" not in it.function) > 0.9
    assert abs(sum(it.share for it in spent) - 1) < 1e-6


def test_other_threads_are_accounted_for(tmp_path: Path) -> None:
    with spied(tmp_path), busy() as process:
        with Spy(tmp_path, [process.pid]) as spy:
            answered(process, "thread")
        shares = {phase: share for phase, _, share, _ in by_phase(spy.spent(1))}
    assert 0.25 < shares[OTHER_THREADS] < 0.75


def test_a_program_that_is_no_python_has_its_cpu_time_and_no_more(tmp_path: Path) -> None:
    loop = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; read rest"
    with (
        spied(tmp_path),
        subprocess.Popen(
            ["sh", "-c", f"read go; {loop}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        with Spy(tmp_path, [process.pid]) as spy:
            answered(process, "go")
        (spent,) = spy.spent(1)
        process.kill()
    assert (spent.phase, spent.function, spent.looks) == ("no Python", "", 0)


def test_a_function_is_of_a_phase() -> None:
    assert phase_of("SocketChannel._send (/any/target/iscsi/portal.py)") == "the socket: sendmsg"
    assert phase_of("Sender.good (/any/target/iscsi/sender.py)") == "iSCSI"
    assert phase_of("Runner.run (/usr/lib/python3.11/asyncio/runners.py)") == EVENT_LOOP
    assert phase_of("main (/any/main.py)") == "else"


def test_the_marks_name_functions_that_there_are() -> None:
    for mark, _ in PHASES:
        owner, _, name = mark.partition(".")
        if name or owner[0].isupper():
            texts = (
                path.read_text()
                for folder in ("target", "workers")
                for path in (PROJECT_ROOT / folder).rglob("*.py")
            )
            assert any(f"class {owner}" in it and f"def {name}" in it for it in texts), mark
