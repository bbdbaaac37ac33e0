"""Samples the main thread of a process that is spied on (tests/bench/spy.py), by its CPU time.

Python imports this at its start, where PYTHONPATH leads here.  ``START`` begins, ``STOP`` ends and
writes what was found to ``LUNMESH_SPY``/PID: functions, and how often each was the innermost.  A
timer of the thread's own CPU time sends the signal: a thread that sleeps is not looked at.  Python
handles it as soon as the C function that is running returns, in the frame that has called it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

START, STOP, LOOK = signal.SIGUSR1, signal.SIGUSR2, signal.SIGPROF
INTERVAL_NS = 4_000_000  # as often as the kernel looks at such timers (CONFIG_HZ 250)
_CLOCK_THREAD_CPUTIME_ID, _SIGEV_THREAD_ID = 3, 4


class _Event(ctypes.Structure):  # struct sigevent
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_byte * 44),
    )


class _Times(ctypes.Structure):  # struct itimerspec
    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "in_s", "in_ns"))


class Sampler:
    """Of the thread that makes it, the main one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: Counter[str] = Counter()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Event(None, LOOK, _SIGEV_THREAD_ID, threading.get_native_id())
        self._check(
            self._libc.timer_create(
                _CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._timer)
            )
        )
        signal.signal(LOOK, self._look)
        signal.signal(START, self._start)
        signal.signal(STOP, self._stop)
        (folder / f"{os.getpid()}.ready").touch()

    @staticmethod
    def _check(result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _look(self, number: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            self._found[f"{code.co_qualname} ({code.co_filename})"] += 1

    def _set(self, interval_ns: int) -> None:
        times = _Times(0, interval_ns, 0, interval_ns)
        self._check(self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None))

    def _start(self, number: int, frame: FrameType | None) -> None:
        self._found.clear()
        self._set(INTERVAL_NS)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._set(0)
        whole = self._folder / f"{os.getpid()}.part"
        whole.write_text(json.dumps(self._found))
        whole.rename(self._folder / str(os.getpid()))


if "LUNMESH_SPY" in os.environ:
    Sampler(Path(os.environ["LUNMESH_SPY"]))
