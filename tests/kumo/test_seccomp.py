"""Each filter refuses what it is there for, beside a control without it, and lets live what runs under it."""

import subprocess
import sys
from pathlib import Path

import pytest

from kumo import seccomp

CHECKOUT = Path(__file__).parent.parent.parent
# Tries what a break-in would try; each line of the output is a name and 0, or the number of the error.
ATTEMPTS = """
import ctypes, os, sys, threading
from kumo import calls, seccomp
libc = ctypes.CDLL(None, use_errno=True)
made = getattr(calls, sys.argv[1])() if sys.argv[1] else b""
os.read(os.open("/dev/null", os.O_RDONLY), 1)
if made:
    seccomp.install(made)

def said(name, result):
    print(name, ctypes.get_errno() if result < 0 else 0, flush=True)

said("mount", libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
said("unshare", libc.unshare(0x10000000))
said("socket", libc.socket(2, 1, 0))
said("memory", -1 if (libc.mmap(None, 4096, 7, 0x22, -1, 0) == -1) else 0)
said("keyctl", libc.syscall(250, 0, -3, 0))
said("uring", libc.syscall(425, 1, ctypes.create_string_buffer(120)))
try:
    thread = threading.Thread(target=lambda: print("thread 0", flush=True))
    thread.start()
    thread.join()
except RuntimeError:
    print("thread 1", flush=True)
try:
    os.execv("/bin/true", ["true"])
except OSError as error:
    print("program", error.errno, flush=True)
"""


def tried(which: str) -> dict[str, int]:
    """Return what became of each attempt under a filter of kumo/calls.py, or under none; a program that started says nothing."""
    done = subprocess.run([sys.executable, "-c", ATTEMPTS, which], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {name: int(number) for name, number in (line.split() for line in done.stdout.splitlines())} | {
        "program": 1 if "program" in done.stdout else 0
    }


@pytest.mark.parametrize(
    ("which", "refused"),
    [
        ("", set()),
        ("host_service", {"keyctl", "uring"}),
        ("plain_service", {"keyctl", "uring", "mount", "unshare"}),
        ("no_programs", {"program"}),
        ("guest_responder", {"keyctl", "uring", "mount", "unshare", "socket", "memory", "thread", "program"}),
        ("image_program", {"keyctl", "uring", "mount", "unshare", "socket"}),
    ],
)
def test_what_is_refused_is_just_what_is_not_needed(which: str, refused: set[str]) -> None:
    assert {name for name, number in tried(which).items() if number == 1} == refused


def test_a_call_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="colour"):
        seccomp.denying(["colour"])
