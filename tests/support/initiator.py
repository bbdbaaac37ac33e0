"""A raw iSCSI initiator for tests: one session of one connection, synchronous.

    with Initiator("127.0.0.1", port, target=iqn) as session:
        session.login({"HeaderDigest": "CRC32C", "InitialR2T": "No"})
        task = session.command(cdb.read16(0, 8), read_length=4096)
        assert task.status == 0 and len(task.data_in) == 4096

It stands on two layers that a test may use alone: `iscsi_pdu` (each field of each header) and
`iscsi_socket` (bytes and PDUs in and out, `session.socket`). What the session does in between:

1. `read_pdu` and everything built on it hold the target to RFC 7143's numbers and limits: StatSN,
   ExpCmdSN and MaxCmdSN, DataSN, R2TSN, Buffer Offset, ExpDataSN, lengths against what was
   negotiated. What is wrong raises ProtocolError. Reading through `session.socket` skips this, so a
   test that does must expect later numbers to disagree.
2. `start` sends a command, with the unsolicited data that was negotiated; `process` acts on one PDU
   (answers an R2T, collects data, completes a task, answers a ping); `wait` does both until tasks
   are done. A test that answers R2Ts itself passes `answer_r2t=False` and reads `task.r2ts`.
3. A Reject raises Rejected, an Async Message goes to `events`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tests.support import iscsi_pdu as wire
from tests.support.chap import Answer
from tests.support.iscsi_pdu import NO_TAG, Attribute, Opcode, Pdu
from tests.support.iscsi_socket import DEFAULT_TIMEOUT_S, PduSocket, ProtocolError
from tests.support.iscsi_task import Sink, Task
from tests.support.session_parameters import DECLARED, DEFAULT_KEYS, Parameters

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3
LOGIN_DATA_BYTES_MAX = 8192
LOGIN_ROUNDS_MAX = 20

DEFAULT_NAME = "iqn.2026-11.io.lunmesh.test:initiator"
Credentials = tuple[str, str]


class LoginRefused(Exception):
    def __init__(self, pdu: Pdu) -> None:
        self.pdu = pdu
        self.status = (pdu.status_class, pdu.status_detail)
        super().__init__(f"login refused: class {self.status[0]}, detail {self.status[1]}")


class Rejected(Exception):
    def __init__(self, pdu: Pdu) -> None:
        self.pdu = pdu
        self.reason = pdu.response
        self.header = bytes(pdu.data)
        super().__init__(f"rejected, reason 0x{self.reason:02x}: {self.header.hex(' ', 4)}")


class Initiator:
    def __init__(
        self,
        host: str,
        port: int,
        *,
        target: str | None = None,
        name: str = DEFAULT_NAME,
        isid: bytes | None = None,
        tsih: int = 0,
        cid: int = 0,
        timeout: float = DEFAULT_TIMEOUT_S,
        socket: PduSocket | None = None,
    ) -> None:
        self.name, self.target = name, target
        # Random, so that two sessions of a test are two I_T nexuses unless it wants otherwise.
        self.isid = isid if isid is not None else b"\x80" + secrets.token_bytes(5)
        self.tsih, self.cid = tsih, cid
        self.parameters = Parameters()
        self.answers: dict[str, str] = {}  # every key the target sent in login
        self.tasks: dict[int, Task] = {}
        self.events: list[Pdu] = []
        self.cmd_sn = 1
        self.exp_stat_sn = 0  # the next StatSN that the target must use
        self.exp_cmd_sn = self.cmd_sn
        self.max_cmd_sn = self.cmd_sn
        self.logged_in = False
        self._itt = 0
        self._stat_sn_known = False
        self.socket = socket if socket is not None else PduSocket(host, port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, without a word to the target."""
        self.socket.close()

    # Login.

    def login(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        defaults: bool = True,
        discovery: bool = False,
        chap: Credentials | None = None,
        mutual: Credentials | None = None,
        algorithms: str = "5",
        security_stage: bool = False,
    ) -> dict[str, str]:
        """Log in as usual, offering `keys` (over DEFAULT_KEYS); what the target answered.

        `chap` is our user and secret, `mutual` the target's. Without either the login begins in the
        operational stage, unless `security_stage` asks for a first one that settles on no
        authentication.
        """
        opening = {"InitiatorName": self.name}
        opening["SessionType"] = "Discovery" if discovery else "Normal"
        if self.target is not None:
            opening["TargetName"] = self.target
        if discovery:
            offer = {"MaxRecvDataSegmentLength": DEFAULT_KEYS["MaxRecvDataSegmentLength"]}
        else:
            offer = dict(DEFAULT_KEYS)
        offer = {**(offer if defaults else {}), **(keys or {})}
        if chap is not None:
            self._authenticate(opening, chap, mutual, algorithms)
            opening = {}
        elif security_stage:
            self.login_exchange(SECURITY, {**opening, "AuthMethod": "None"}, OPERATIONAL)
            opening = {}
        answers = self.login_exchange(OPERATIONAL, {**opening, **offer}, FULL_FEATURE)
        self._enter_full_feature(offer, answers)
        return self.answers

    def login_exchange(
        self, csg: int, keys: Mapping[str, str], nsg: int | None = None
    ) -> dict[str, str]:
        """One turn of a login stage, or with `nsg` as many as it takes to leave the stage."""
        answers: dict[str, str] = {}
        to_send = wire.encode_keys(keys)
        for _ in range(LOGIN_ROUNDS_MAX):
            text, reply = self._login_turn(csg, nsg, to_send)
            new = wire.decode_keys(text)
            self.answers |= new
            answers |= new
            if nsg is None or reply.flags & 0x80:
                return answers
            # The target has offers of its own. Giving a value back is a legal answer to each.
            to_send = wire.encode_keys(
                {key: value for key, value in new.items() if key not in {*keys, *DECLARED}}
            )
        raise ProtocolError("the target does not leave the login stage")

    def _login_turn(self, csg: int, nsg: int | None, text: bytes) -> tuple[bytes, Pdu]:
        """Send text and take the answer, either of them over as many PDUs as it needs."""
        while len(text) > LOGIN_DATA_BYTES_MAX:
            part, text = text[:LOGIN_DATA_BYTES_MAX], text[LOGIN_DATA_BYTES_MAX:]
            if self._login_pdu(csg, None, part, more=True).data:
                raise ProtocolError("an answer to a request that was not complete")
        reply = self._login_pdu(csg, nsg, text)
        answer = bytes(reply.data)
        while reply.flags & 0x40:
            if reply.flags & 0x80:
                raise ProtocolError("a login response with both T and C")
            reply = self._login_pdu(csg, nsg, b"")
            answer += reply.data
        return answer, reply

    def _login_pdu(self, csg: int, nsg: int | None, text: bytes, *, more: bool = False) -> Pdu:
        request = self.login_request(csg, nsg, text, more=more)
        self.socket.send(request)
        reply = self.read_pdu()
        if reply.opcode != Opcode.LOGIN_RESPONSE:
            raise ProtocolError(f"not a login response: {reply}")
        if reply.status_class:
            raise LoginRefused(reply)
        transit, current, following = reply.flags & 0x80, reply.flags >> 2 & 3, reply.flags & 3
        if current != csg or (transit and following != nsg) or (transit and request.flags & 0x40):
            raise ProtocolError(f"the target changed the login stage: {reply}")
        if reply.itt != request.itt or reply.isid != request.isid:
            raise ProtocolError(f"another login's response: {reply}")
        if transit and following == FULL_FEATURE:
            if not reply.tsih:
                raise ProtocolError("TSIH 0 in the last login response")
            self.tsih = reply.tsih
        elif reply.tsih != request.tsih:
            raise ProtocolError("TSIH before the last login response")
        return reply

    def login_request(
        self, csg: int, nsg: int | None, text: bytes = b"", *, more: bool = False
    ) -> Pdu:
        """A login request with the session's numbers, not sent."""
        return wire.login_request(
            itt=self._itt,
            cmd_sn=self.cmd_sn,
            exp_stat_sn=self.exp_stat_sn,
            csg=csg,
            nsg=nsg or 0,
            transit=nsg is not None,
            more=more,
            isid=self.isid,
            tsih=self.tsih,
            cid=self.cid,
            data=text,
        )

    def _authenticate(
        self,
        opening: Mapping[str, str],
        user: Credentials,
        target: Credentials | None,
        algorithms: str,
    ) -> None:
        method = self.login_exchange(SECURITY, {**opening, "AuthMethod": "CHAP"})
        if method.get("AuthMethod") != "CHAP":
            raise ProtocolError(f"the target answered AuthMethod={method.get('AuthMethod')}")
        challenge = self.login_exchange(SECURITY, {"CHAP_A": algorithms})
        answer = Answer(challenge, *user, mutual=target is not None)
        proof = self.login_exchange(SECURITY, answer.keys, OPERATIONAL)
        if target is not None and not answer.proves(proof, *target):
            raise ProtocolError("the target does not prove that it knows its secret")

    def _enter_full_feature(self, offered: Mapping[str, str], answered: Mapping[str, str]) -> None:
        self.parameters.settle(offered, answered)
        self.socket.header_digest = answered.get("HeaderDigest") == "CRC32C"
        self.socket.data_digest = answered.get("DataDigest") == "CRC32C"
        self.logged_in = True

    # Commands.

    def command(
        self,
        cdb: bytes,
        *,
        read_length: int = 0,
        data_out: bytes | memoryview = b"",
        edtl: int | None = None,
        lun: int = 0,
        attribute: int = Attribute.SIMPLE,
        immediate: bool = False,
        sink: Sink | None = None,
        timeout: float | None = None,
    ) -> Task:
        """Run a command to its end, whatever the end is."""
        task = self.start(
            cdb,
            read_length=read_length,
            data_out=data_out,
            edtl=edtl,
            lun=lun,
            attribute=attribute,
            immediate=immediate,
            sink=sink,
        )
        self.wait(task, timeout=timeout)
        return task

    def start(
        self,
        cdb: bytes,
        *,
        read_length: int = 0,
        data_out: bytes | memoryview = b"",
        edtl: int | None = None,
        lun: int = 0,
        attribute: int = Attribute.SIMPLE,
        immediate: bool = False,
        sink: Sink | None = None,
        unsolicited: bool = True,
        answer_r2t: bool = True,
        ignore_window: bool = False,
    ) -> Task:
        """Send a command, once the target's window allows it.

        `edtl` overrides the Expected Data Transfer Length; data asked for beyond `data_out` are
        zeros. Data-In are given to `sink`, or else kept in the task.
        """
        reading, writing = read_length > 0, len(data_out) > 0
        expected = edtl if edtl is not None else read_length or len(data_out)
        if not (ignore_window or immediate):
            self.wait_for_window()
        task = Task(
            itt=self.new_tag(),
            lun=lun,
            cdb=cdb,
            edtl=expected,
            data_out=_fitted(data_out, expected if writing else 0),
            cmd_sn=self.cmd_sn,
            sink=sink,
            answer_r2t=answer_r2t,
        )
        limits = self.parameters
        burst = min(limits.first_burst, len(task.data_out)) if unsolicited else 0
        in_command = min(burst, limits.send_max) if limits.immediate_data else 0
        if limits.initial_r2t:
            burst = in_command
        pdu = wire.scsi_command(
            itt=task.itt,
            lun=lun,
            cdb=cdb,
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            edtl=expected,
            read=reading,
            write=writing,
            final=burst == in_command,
            attribute=attribute,
            immediate=immediate,
            data=task.data_out[:in_command],
            ahs=wire.extended_cdb_ahs(cdb) if len(cdb) > 16 else b"",
        )
        self.tasks[task.itt] = task
        self.socket.queue_pdu(pdu)
        if burst > in_command:
            self._queue_burst(task, NO_TAG, in_command, burst)
        task.solicited_from = burst
        self.socket.flush()
        return task

    def wait(self, *tasks: Task, timeout: float | None = None) -> None:
        """Until these are done. The timeout is for each PDU."""
        while not all(task.done for task in tasks):
            self.process(self.read_pdu(timeout))

    def wait_for_window(self) -> None:
        while _before(self.max_cmd_sn, self.cmd_sn):
            self.process(self.read_pdu())

    def answer_r2t(self, r2t: Pdu) -> None:
        """Send the data that an R2T asks for."""
        task = self.tasks[r2t.itt]
        end = r2t.buffer_offset + r2t.desired_length
        self._queue_burst(task, r2t.ttt, r2t.buffer_offset, end)
        self.socket.flush()

    def _queue_burst(self, task: Task, ttt: int, start: int, end: int) -> None:
        step = self.parameters.send_max
        for number, offset in enumerate(range(start, end, step)):
            stop = min(offset + step, end)
            self.socket.queue_pdu(
                wire.data_out(
                    itt=task.itt,
                    lun=task.lun,
                    ttt=ttt,
                    exp_stat_sn=self.exp_stat_sn,
                    data_sn=number,
                    offset=offset,
                    data=task.data_out[offset:stop],
                    final=stop == end,
                )
            )

    # The other requests, each waiting for its answer.

    def nop(self, data: bytes = b"", *, immediate: bool = False) -> bytes:
        """Ping the target; the data it returns."""
        itt, cmd_sn = self.new_tag(), self.next_cmd_sn(immediate=immediate)
        request = wire.nop_out(
            itt=itt,
            cmd_sn=cmd_sn,
            exp_stat_sn=self.exp_stat_sn,
            immediate=immediate,
            data=data,
        )
        return bytes(self.request(request, Opcode.NOP_IN).data)

    def text(self, keys: wire.Keys) -> dict[str, str]:
        """A text exchange."""
        return wire.decode_keys(self._text(wire.encode_keys(keys)))

    def send_targets(self, what: str = "All") -> list[tuple[str, list[str]]]:
        """SendTargets: the targets' names, each with its addresses."""
        found: list[tuple[str, list[str]]] = []
        for pair in self._text(wire.encode_keys({"SendTargets": what})).split(b"\0"):
            key, _, value = pair.decode().partition("=")
            if key == "TargetName":
                found.append((value, []))
            elif key == "TargetAddress":
                found[-1][1].append(value)
        return found

    def _text(self, data: bytes) -> bytes:
        itt, ttt, answer = self.new_tag(), NO_TAG, b""
        for _ in range(LOGIN_ROUNDS_MAX):
            request = wire.text_request(
                itt=itt,
                ttt=ttt,
                cmd_sn=self.next_cmd_sn(),
                exp_stat_sn=self.exp_stat_sn,
                final=True,
                data=data,
            )
            reply = self.request(request, Opcode.TEXT_RESPONSE)
            answer += reply.data
            if reply.final:
                if reply.ttt != NO_TAG:
                    raise ProtocolError("a final text response with a target transfer tag")
                return answer
            ttt, data = reply.ttt, b""
        raise ProtocolError("the text response does not end")

    def task_management(
        self, function: int, *, lun: int = 0, task: Task | None = None, immediate: bool = True
    ) -> int:
        """A task management function; the target's response code."""
        request = wire.task_management(
            function=function,
            itt=self.new_tag(),
            cmd_sn=self.next_cmd_sn(immediate=immediate),
            exp_stat_sn=self.exp_stat_sn,
            lun=lun,
            referenced_tag=task.itt if task else NO_TAG,
            ref_cmd_sn=task.cmd_sn if task else 0,
            immediate=immediate,
        )
        return self.request(request, Opcode.TASK_MANAGEMENT_RESPONSE).response

    def logout(self, reason: int = 0) -> int:
        """Log out; the target's response code."""
        request = wire.logout_request(
            itt=self.new_tag(),
            cmd_sn=self.next_cmd_sn(),
            exp_stat_sn=self.exp_stat_sn,
            reason=reason,
            cid=self.cid,
        )
        return self.request(request, Opcode.LOGOUT_RESPONSE).response

    def request(self, request: Pdu, expected: Opcode) -> Pdu:
        """Send, and wait for the answer of this opcode, while tasks go on."""
        self.socket.send(request)
        while True:
            reply = self.read_pdu()
            if reply.opcode == expected and reply.itt == request.itt:
                return reply
            self.process(reply)

    # Numbers.

    def new_tag(self) -> int:
        self._itt = (self._itt + 1) % NO_TAG
        return self._itt

    def next_cmd_sn(self, *, immediate: bool = False) -> int:
        """The CmdSN for a request; an immediate one carries the number and does not use it up."""
        number = self.cmd_sn
        if not immediate:
            self.cmd_sn = (number + 1) & 0xFFFFFFFF
        return number

    # What the target sends.

    def read_pdu(self, timeout: float | None = None) -> Pdu:
        """The next PDU, its numbers checked and taken over."""
        pdu = self.socket.read_pdu(timeout)
        self._take_stat_sn(pdu)
        if _before(pdu.max_cmd_sn, pdu.exp_cmd_sn - 1):
            return pdu  # RFC 7143 §4.2.2.1: both are then to be ignored
        if _before(self.exp_cmd_sn, pdu.exp_cmd_sn):
            self.exp_cmd_sn = pdu.exp_cmd_sn
        if _before(self.max_cmd_sn, pdu.max_cmd_sn):
            self.max_cmd_sn = pdu.max_cmd_sn
        if _before(self.cmd_sn, self.exp_cmd_sn):
            raise ProtocolError(f"ExpCmdSN {self.exp_cmd_sn} of a command that was never sent")
        return pdu

    def _take_stat_sn(self, pdu: Pdu) -> None:
        if pdu.opcode == Opcode.DATA_IN:
            if not pdu.flags & 0x01:
                return  # the field is reserved without S
        elif pdu.opcode == Opcode.LOGIN_RESPONSE and pdu.status_class:
            return  # and not valid in a refused login
        elif not self._stat_sn_known:
            # The first login response says where the target begins to count.
            self.exp_stat_sn, self._stat_sn_known = pdu.stat_sn, True
        if pdu.stat_sn != self.exp_stat_sn:
            raise ProtocolError(f"StatSN {pdu.stat_sn} instead of {self.exp_stat_sn}: {pdu}")
        # An R2T and the target's own ping show the next StatSN and do not use it up.
        if pdu.opcode == Opcode.R2T or (pdu.opcode == Opcode.NOP_IN and pdu.itt == NO_TAG):
            return
        self.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF

    def process(self, pdu: Pdu) -> None:
        """Act on a PDU of the full feature phase."""
        match pdu.opcode:
            case Opcode.DATA_IN:
                self._task(pdu).take_data_in(pdu, self.parameters)
            case Opcode.R2T:
                task = self._task(pdu)
                task.take_r2t(pdu, self.parameters)
                if task.answer_r2t:
                    self.answer_r2t(pdu)
            case Opcode.SCSI_RESPONSE:
                self._task(pdu).take_response(pdu)
            case Opcode.NOP_IN if pdu.itt == NO_TAG:
                if pdu.ttt != NO_TAG:
                    self.answer_ping(pdu)
            case Opcode.ASYNC:
                self.events.append(pdu)
            case Opcode.REJECT:
                raise Rejected(pdu)
            case _:
                raise ProtocolError(f"an answer that nobody waits for: {pdu}")
        if (ended := self.tasks.get(pdu.itt)) is not None and ended.done:
            del self.tasks[pdu.itt]

    def answer_ping(self, ping: Pdu) -> None:
        answer = wire.nop_out(
            itt=NO_TAG,
            ttt=ping.ttt,
            cmd_sn=self.cmd_sn,
            exp_stat_sn=self.exp_stat_sn,
            immediate=True,
            data=bytes(ping.data),
        )
        answer.lun_bytes = ping.lun_bytes
        self.socket.send(answer)

    def _task(self, pdu: Pdu) -> Task:
        if pdu.itt not in self.tasks:
            raise ProtocolError(f"no task has this tag: {pdu}")
        return self.tasks[pdu.itt]


def _fitted(data: bytes | memoryview, length: int) -> memoryview:
    """Exactly that long, cut or filled up with zeros."""
    if len(data) >= length:
        return memoryview(data)[:length]
    return memoryview(bytes(data).ljust(length, b"\0"))


def _before(a: int, b: int) -> bool:
    """a < b for serial numbers of 32 bits (RFC 1982)."""
    return 0 < ((b - a) & 0xFFFFFFFF) < 1 << 31
