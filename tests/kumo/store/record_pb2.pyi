import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Thing(_message.Message):
    __slots__ = ("name", "uid", "etag", "generation", "spec", "status", "labels", "create_time", "update_time", "delete_time")
    class Spec(_message.Message):
        __slots__ = ("color", "size", "target_uid", "owner_uid", "filling")
        COLOR_FIELD_NUMBER: _ClassVar[int]
        SIZE_FIELD_NUMBER: _ClassVar[int]
        TARGET_UID_FIELD_NUMBER: _ClassVar[int]
        OWNER_UID_FIELD_NUMBER: _ClassVar[int]
        FILLING_FIELD_NUMBER: _ClassVar[int]
        color: str
        size: int
        target_uid: str
        owner_uid: str
        filling: bytes
        def __init__(self, color: _Optional[str] = ..., size: _Optional[int] = ..., target_uid: _Optional[str] = ..., owner_uid: _Optional[str] = ..., filling: _Optional[bytes] = ...) -> None: ...
    class Status(_message.Message):
        __slots__ = ("state", "conditions", "cell")
        STATE_FIELD_NUMBER: _ClassVar[int]
        CONDITIONS_FIELD_NUMBER: _ClassVar[int]
        CELL_FIELD_NUMBER: _ClassVar[int]
        state: str
        conditions: _containers.RepeatedScalarFieldContainer[str]
        cell: str
        def __init__(self, state: _Optional[str] = ..., conditions: _Optional[_Iterable[str]] = ..., cell: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    etag: str
    generation: int
    spec: Thing.Spec
    status: Thing.Status
    labels: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    delete_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., etag: _Optional[str] = ..., generation: _Optional[int] = ..., spec: _Optional[_Union[Thing.Spec, _Mapping]] = ..., status: _Optional[_Union[Thing.Status, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
