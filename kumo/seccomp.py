"""Writes filters of system calls, and puts them on this process and all that it starts, for good. Which calls are whose is in
kumo/calls.py.

libseccomp knows the numbers of calls on each processor; it is there wherever QEMU is. A refused call answers EPERM: a program that
tries a newer call first goes on with the older one, and a guest that breaks into a process cannot end it by trying.
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | errno.EPERM
_ENOSYS = 0x00050000 | errno.ENOSYS
_UNKNOWN = -1
_OPTIMIZE, _BINARY_TREE = 8, 2
_MASKED_EQUAL = 7
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_STEP_BYTES = 8
# clone(2) with one of these makes a namespace: mount, cgroup, UTS, IPC, user, PID, network.
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


@dataclass(frozen=True)
class Case:
    """A call, where the bits in `mask` of the argument of that number (the first is 0) are those of `value`."""

    call: str
    argument: int
    mask: int
    value: int


# What is answered, and to what.
_Rule = tuple[int, str | Case]


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("how", ctypes.c_int), ("mask", ctypes.c_uint64), ("wanted", ctypes.c_uint64))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def allowing(calls: Iterable[str], cases: Iterable[Case] = ()) -> bytes:
    """Return a filter that refuses all but `calls` and `cases`. Raises ValueError for a name that no processor knows."""
    allowed: list[str | Case] = [*calls, *cases]
    return _compile(_EPERM, [(_ALLOW, call) for call in allowed])


def denying(calls: Iterable[str], *, namespaces: bool = True) -> bytes:
    """Return a filter that refuses `calls`; without `namespaces` it lets no process make one for its children either."""
    rules: list[_Rule] = [(_EPERM, call) for call in calls]
    if not namespaces:
        rules += [(_EPERM, Case("clone", 0, flag, flag)) for flag in _NAMESPACES]
        # Its flags lie in memory, where no filter looks; libc then takes clone(2).
        rules.append((_ENOSYS, "clone3"))
    return _compile(_ALLOW, rules)


def install(program: bytes) -> None:
    """Put a filter on the calling thread and all that it starts; call it before any thread is started. Raises OSError if it cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = ctypes.create_string_buffer(program, len(program))
    whole = _Program(len(program) // _STEP_BYTES, ctypes.addressof(steps))
    # Without this only who has CAP_SYS_ADMIN may filter.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(whole), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"no filter of system calls: {os.strerror(number)}")


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def _compile(otherwise: int, rules: Iterable[_Rule]) -> bytes:
    library = _library()
    context = library.seccomp_init(otherwise)
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for action, call in rules:
            _add(context, action, call)
        return _exported(context)
    finally:
        library.seccomp_release(context)


def _add(context: int, action: int, call: str | Case) -> None:
    name = call.call if isinstance(call, Case) else call
    number = _library().seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:
        raise ValueError(f"there is no system call {name}")
    count, compared = 0, None
    if isinstance(call, Case):
        count, compared = 1, ctypes.byref(_Comparison(call.argument, _MASKED_EQUAL, call.mask, call.value))
    _check(_library().seccomp_rule_add_array(context, action, number, count, compared), name)


def _exported(context: int) -> bytes:
    file = os.memfd_create("filter")
    try:
        _check(_library().seccomp_export_bpf(context, file), "the filter")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
