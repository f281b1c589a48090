"""libvirt's event loop, on one thread of its own for the whole process: callbacks and keepalive never wait for asyncio."""

import threading

import libvirt

_STARTED = threading.Lock()
_RUNNING = False


def ensure_running() -> None:
    """Start the thread, once. Comes before the first connection is opened."""
    global _RUNNING  # libvirt knows one event loop in a process, and no way to end it
    with _STARTED:
        if _RUNNING:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt prints every error to stderr unless told not to; each of them is raised as well.
        libvirt.registerErrorHandler(lambda *_: None, None)
        threading.Thread(target=_run, name="libvirt-events", daemon=True).start()
        _RUNNING = True


def _run() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
