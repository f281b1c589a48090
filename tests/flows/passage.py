"""A way into the network of a lab's node: ports on this side's loopback that lead to addresses on the other. It passes bytes on."""

import contextlib
import socket
import threading
from collections.abc import Callable

from agent.network import netns

_CONNECT_S = 5.0


class Passage:
    """Listens on `port` until closed. Each connection goes to `target` in the network of the process that `pid` returns then."""

    def __init__(self, pid: Callable[[], int], target: tuple[str, int]) -> None:
        self._pid, self._target = pid, target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        for one in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # it was closed
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            with netns.visit(f"/proc/{self._pid()}/ns/net"):
                far = socket.create_connection(self._target, timeout=_CONNECT_S)
        except Exception:  # noqa: BLE001  # whatever it is, the way is closed, as the peer shall see
            near.close()
            return
        far.settimeout(None)
        self._open |= {near, far}
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        for one in (near, far):
            self._open.discard(one)
            one.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
