"""Ceph's librados, called without a module in between (ctypes).

Debian's Python module calls back into Python for each completion, from a thread of librados, which
costs more than the I/O itself; here nobody calls back (workers/rados_completions.py).  The library
is loaded when a pool is asked for.

Rules:

1. What only takes a lock and returns is called with the GIL held (``Librados.quick``): giving it up
   and getting it back would cost more than the call.  No thread of librados ever wants the GIL.
2. What waits for the cluster is called without it (``Librados.slow``), in a thread.
3. Memory that librados is given lives until the completion has been seen to be complete, or longer.
   Reads go into ``bytes`` that nobody has seen yet (``new_bytes``); what is written is copied by
   librados before the call returns.

The functions are those of rados/librados.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Final

SONAME: Final = "librados.so.2"
FULL_FORCE: Final = 128  # LIBRADOS_OPERATION_FULL_FORCE
CREATE_EXCLUSIVE: Final = 1  # LIBRADOS_CREATE_EXCLUSIVE
_HANDLE: Final = POINTER(c_void_p)  # where a function puts a handle
_TEXT: Final = POINTER(c_char_p)

_QUICK: Final[dict[str, tuple[Any, ...]]] = {
    "rados_aio_create_completion2": (c_void_p, c_void_p, _HANDLE),
    "rados_aio_is_complete": (c_void_p,),
    "rados_aio_get_return_value": (c_void_p,),
    "rados_aio_cancel": (c_void_p, c_void_p),
    "rados_aio_read": (c_void_p, c_char_p, c_void_p, c_char_p, c_size_t, c_uint64),
    "rados_aio_write": (c_void_p, c_char_p, c_void_p, c_char_p, c_size_t, c_uint64),
    "rados_aio_writesame": (
        *(c_void_p, c_char_p, c_void_p, c_char_p),
        *(c_size_t, c_size_t, c_uint64),  # of what is repeated, of all, offset
    ),
    "rados_aio_remove": (c_void_p, c_char_p, c_void_p),
    "rados_aio_stat": (c_void_p, c_char_p, c_void_p, POINTER(c_uint64), c_void_p),
    "rados_aio_write_op_operate": (c_void_p, c_void_p, c_void_p, c_char_p, c_void_p, c_int),
    "rados_ioctx_get_id": (c_void_p,),
}
_QUICK_WITHOUT_RESULT: Final[dict[str, tuple[Any, ...]]] = {
    "rados_aio_release": (c_void_p,),
    "rados_release_write_op": (c_void_p,),
    "rados_write_op_create": (c_void_p, c_int, c_void_p),
    "rados_write_op_cmpext": (c_void_p, c_char_p, c_size_t, c_uint64, c_void_p),
    "rados_write_op_write": (c_void_p, c_char_p, c_size_t, c_uint64),
    "rados_write_op_write_full": (c_void_p, c_char_p, c_size_t),
    "rados_write_op_truncate": (c_void_p, c_uint64),
    "rados_set_osdmap_full_try": (c_void_p,),
}
_SLOW: Final[dict[str, tuple[Any, ...]]] = {
    "rados_aio_wait_for_complete": (c_void_p,),
    "rados_create": (_HANDLE, c_char_p),
    "rados_conf_read_file": (c_void_p, c_char_p),
    "rados_conf_set": (c_void_p, c_char_p, c_char_p),
    "rados_connect": (c_void_p,),
    "rados_cluster_fsid": (c_void_p, c_char_p, c_size_t),
    "rados_getaddrs": (c_void_p, POINTER(c_void_p)),
    "rados_ioctx_create": (c_void_p, c_char_p, _HANDLE),
    "rados_wait_for_latest_osdmap": (c_void_p,),
    "rados_blocklist_add": (c_void_p, c_char_p, c_uint32),
    "rados_nobjects_list_open": (c_void_p, _HANDLE),
    "rados_nobjects_list_next": (c_void_p, _TEXT, _TEXT, _TEXT),
}
_SLOW_WITHOUT_RESULT: Final[dict[str, tuple[Any, ...]]] = {
    "rados_nobjects_list_close": (c_void_p,),
    "rados_buffer_free": (c_void_p,),
    "rados_ioctx_destroy": (c_void_p,),
    "rados_shutdown": (c_void_p,),
}


class Librados:
    """The loaded library, by rule 1 and by rule 2.  Raises OSError or AttributeError."""

    def __init__(self) -> None:
        self.quick: Any = ctypes.PyDLL(SONAME)
        self.slow: Any = ctypes.CDLL(SONAME)
        _declare(self.quick, _QUICK, c_int)
        _declare(self.quick, _QUICK_WITHOUT_RESULT, None)
        self.quick.rados_aio_create_completion2.restype = c_int
        self.quick.rados_ioctx_get_id.restype = c_int64
        self.quick.rados_release_write_op.restype = None
        self.quick.rados_create_write_op.argtypes = ()
        self.quick.rados_create_write_op.restype = c_void_p
        _declare(self.slow, _SLOW, c_int)
        _declare(self.slow, _SLOW_WITHOUT_RESULT, None)


def _declare(library: Any, functions: dict[str, tuple[Any, ...]], result: Any) -> None:
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = result


@functools.cache
def load() -> Librados:
    """The library.  Raises OSError or AttributeError, where it is missing or too old."""
    return Librados()


# Bytes of a length that somebody else fills before they are shown to anyone (rule 3).
_new: Any = ctypes.pythonapi.PyBytes_FromStringAndSize
_new.argtypes = (c_void_p, ctypes.c_ssize_t)
_new.restype = ctypes.py_object


def new_bytes(length: int) -> bytes:
    """``length`` bytes, to be filled through their address; their content is undefined."""
    made: bytes = _new(None, length)
    return made


def check(result: int, what: str = "") -> int:
    """``result`` of a call, or OSError where it is an error."""
    if result < 0:
        raise OSError(-result, os.strerror(-result), what or None)
    return result
