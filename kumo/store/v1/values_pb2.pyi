import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Format(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("amount",)
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    amount: int
    def __init__(self, amount: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("uid", "fingerprint", "time")
    UID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    uid: str
    fingerprint: bytes
    time: _timestamp_pb2.Timestamp
    def __init__(self, uid: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("kind", "incarnation", "revision", "delivered", "last_name", "filter")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Token.Kind]
        PAGE: _ClassVar[Token.Kind]
        RESUME: _ClassVar[Token.Kind]
    KIND_UNSPECIFIED: Token.Kind
    PAGE: Token.Kind
    RESUME: Token.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    LAST_NAME_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    kind: Token.Kind
    incarnation: str
    revision: int
    delivered: int
    last_name: str
    filter: bytes
    def __init__(self, kind: _Optional[_Union[Token.Kind, str]] = ..., incarnation: _Optional[str] = ..., revision: _Optional[int] = ..., delivered: _Optional[int] = ..., last_name: _Optional[str] = ..., filter: _Optional[bytes] = ...) -> None: ...
