from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_OK: _ClassVar[Status]
    STATUS_MISCOMPARE: _ClassVar[Status]
    STATUS_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_NO_SPACE: _ClassVar[Status]
    STATUS_READ_ONLY: _ClassVar[Status]
    STATUS_READ_FAILED: _ClassVar[Status]
    STATUS_WRITE_FAILED: _ClassVar[Status]
    STATUS_SYNC_LOST: _ClassVar[Status]
    STATUS_UNAVAILABLE: _ClassVar[Status]
    STATUS_STALE_EPOCH: _ClassVar[Status]
    STATUS_DEADLINE: _ClassVar[Status]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_READ: _ClassVar[Kind]
    KIND_WRITE: _ClassVar[Kind]
    KIND_ZERO: _ClassVar[Kind]
    KIND_UNMAP: _ClassVar[Kind]
    KIND_COMPARE_AND_WRITE: _ClassVar[Kind]
    KIND_FLUSH: _ClassVar[Kind]
    KIND_BLOCK_STATUS: _ClassVar[Kind]
STATUS_UNSPECIFIED: Status
STATUS_OK: Status
STATUS_MISCOMPARE: Status
STATUS_OUT_OF_RANGE: Status
STATUS_NO_SPACE: Status
STATUS_READ_ONLY: Status
STATUS_READ_FAILED: Status
STATUS_WRITE_FAILED: Status
STATUS_SYNC_LOST: Status
STATUS_UNAVAILABLE: Status
STATUS_STALE_EPOCH: Status
STATUS_DEADLINE: Status
KIND_UNSPECIFIED: Kind
KIND_READ: Kind
KIND_WRITE: Kind
KIND_ZERO: Kind
KIND_UNMAP: Kind
KIND_COMPARE_AND_WRITE: Kind
KIND_FLUSH: Kind
KIND_BLOCK_STATUS: Kind

class IoBatch(_message.Message):
    __slots__ = ("node", "epoch", "batch", "ios", "payload", "cancel", "answer_credit")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    IOS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    ANSWER_CREDIT_FIELD_NUMBER: _ClassVar[int]
    node: str
    epoch: int
    batch: int
    ios: bytes
    payload: bytes
    cancel: _containers.RepeatedScalarFieldContainer[int]
    answer_credit: int
    def __init__(self, node: _Optional[str] = ..., epoch: _Optional[int] = ..., batch: _Optional[int] = ..., ios: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., cancel: _Optional[_Iterable[int]] = ..., answer_credit: _Optional[int] = ...) -> None: ...

class IoAnswers(_message.Message):
    __slots__ = ("batch", "answers", "payload", "request_credit", "detail", "lent_token", "lent_bytes", "socket_token")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_CREDIT_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    LENT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOCKET_TOKEN_FIELD_NUMBER: _ClassVar[int]
    batch: int
    answers: bytes
    payload: bytes
    request_credit: int
    detail: str
    lent_token: bytes
    lent_bytes: int
    socket_token: bytes
    def __init__(self, batch: _Optional[int] = ..., answers: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., request_credit: _Optional[int] = ..., detail: _Optional[str] = ..., lent_token: _Optional[bytes] = ..., lent_bytes: _Optional[int] = ..., socket_token: _Optional[bytes] = ...) -> None: ...

class VolumeShare(_message.Message):
    __slots__ = ("name", "uuid", "size", "chunk_bytes", "block_bytes", "place")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    uuid: bytes
    size: int
    chunk_bytes: int
    block_bytes: int
    place: str
    def __init__(self, name: _Optional[str] = ..., uuid: _Optional[bytes] = ..., size: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., block_bytes: _Optional[int] = ..., place: _Optional[str] = ...) -> None: ...

class CreateVolumeRequest(_message.Message):
    __slots__ = ("share",)
    SHARE_FIELD_NUMBER: _ClassVar[int]
    share: VolumeShare
    def __init__(self, share: _Optional[_Union[VolumeShare, _Mapping]] = ...) -> None: ...

class CreateVolumeResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class OpenVolumeRequest(_message.Message):
    __slots__ = ("node", "epoch", "uuid", "checksum")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    node: str
    epoch: int
    uuid: bytes
    checksum: bool
    def __init__(self, node: _Optional[str] = ..., epoch: _Optional[int] = ..., uuid: _Optional[bytes] = ..., checksum: _Optional[bool] = ...) -> None: ...

class OpenVolumeResponse(_message.Message):
    __slots__ = ("status", "detail", "handle", "share", "shared", "store_id", "instance", "volatile_id", "read_token", "others", "read_only")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    VOLATILE_ID_FIELD_NUMBER: _ClassVar[int]
    READ_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    handle: int
    share: VolumeShare
    shared: bool
    store_id: str
    instance: str
    volatile_id: str
    read_token: bytes
    others: _containers.RepeatedCompositeFieldContainer[NodeFence]
    read_only: bool
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ..., handle: _Optional[int] = ..., share: _Optional[_Union[VolumeShare, _Mapping]] = ..., shared: _Optional[bool] = ..., store_id: _Optional[str] = ..., instance: _Optional[str] = ..., volatile_id: _Optional[str] = ..., read_token: _Optional[bytes] = ..., others: _Optional[_Iterable[_Union[NodeFence, _Mapping]]] = ..., read_only: _Optional[bool] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("store_id", "instance", "timeout_ms")
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    store_id: str
    instance: str
    timeout_ms: int
    def __init__(self, store_id: _Optional[str] = ..., instance: _Optional[str] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class ResizeVolumeRequest(_message.Message):
    __slots__ = ("uuid", "size")
    UUID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    uuid: bytes
    size: int
    def __init__(self, uuid: _Optional[bytes] = ..., size: _Optional[int] = ...) -> None: ...

class ResizeVolumeResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class DeleteVolumeRequest(_message.Message):
    __slots__ = ("uuid", "place", "store_id")
    UUID_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    uuid: bytes
    place: str
    store_id: str
    def __init__(self, uuid: _Optional[bytes] = ..., place: _Optional[str] = ..., store_id: _Optional[str] = ...) -> None: ...

class DeleteVolumeResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class ListVolumesRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: str
    limit: int
    def __init__(self, after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListVolumesResponse(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedCompositeFieldContainer[VolumeShare]
    def __init__(self, shares: _Optional[_Iterable[_Union[VolumeShare, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("worker", "store", "version", "draining", "buffer_bytes", "buffer_bytes_used", "operations_running", "fences", "shared", "store_id", "instance")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    BUFFER_BYTES_FIELD_NUMBER: _ClassVar[int]
    BUFFER_BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    FENCES_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    store: str
    version: str
    draining: bool
    buffer_bytes: int
    buffer_bytes_used: int
    operations_running: int
    fences: _containers.RepeatedCompositeFieldContainer[NodeFence]
    shared: bool
    store_id: str
    instance: str
    def __init__(self, worker: _Optional[str] = ..., store: _Optional[str] = ..., version: _Optional[str] = ..., draining: _Optional[bool] = ..., buffer_bytes: _Optional[int] = ..., buffer_bytes_used: _Optional[int] = ..., operations_running: _Optional[int] = ..., fences: _Optional[_Iterable[_Union[NodeFence, _Mapping]]] = ..., shared: _Optional[bool] = ..., store_id: _Optional[str] = ..., instance: _Optional[str] = ...) -> None: ...

class NodeFence(_message.Message):
    __slots__ = ("node", "epoch")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    node: str
    epoch: int
    def __init__(self, node: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class FenceRequest(_message.Message):
    __slots__ = ("fence", "timeout_ms")
    FENCE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    fence: NodeFence
    timeout_ms: int
    def __init__(self, fence: _Optional[_Union[NodeFence, _Mapping]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class FenceResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("timeout_ms",)
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    timeout_ms: int
    def __init__(self, timeout_ms: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("status", "detail")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    status: Status
    detail: str
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., detail: _Optional[str] = ...) -> None: ...
