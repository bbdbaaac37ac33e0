"""One TCP connection from its first byte to its last, without the socket.

    LOGIN ──▶ FULL FEATURE ──▶ hanging up ──▶ lost

It owns the receiver, the sender and the state machine of the phase it is in, and keeps the timers:
the portal calls ``tick`` now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from target.iscsi.connection import Connection
from target.iscsi.constants import BHS_LENGTH, OPCODE_MASK, AsyncEvent, LoginStatus, Opcode
from target.iscsi.discovery import TextExchange
from target.iscsi.endpoint import Endpoint
from target.iscsi.errors import LoginRefused, PduError
from target.iscsi.limits import LOGIN_DATA_SEGMENT_BYTES_MAX
from target.iscsi.login import Login, LoginComplete, LoginIdentity
from target.iscsi.management import ping
from target.iscsi.pdu import LoginRequest, TextRequest, decode_request
from target.iscsi.receiver import FramingError, Handler, Receiver
from target.iscsi.sender import Sender
from target.iscsi.session import Session
from target.iscsi.target import IscsiTarget

log = logging.getLogger(__name__)

HANG_UP_SECONDS_MAX: Final = 5.0  # for the last bytes to be taken
