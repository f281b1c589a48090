"""Has files of images looked at and converted inside the jail, and decides by how that ended whether they are refused."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.storage import inspect
from agent.storage.inspect import Refused, judge_check, judge_info
from agent.storage.sandbox import Ended, Limits, Program, Sandbox, python_program
from kumo.errors import ResourceExhausted, Unavailable

_QEMU_IMG = "/usr/bin/qemu-img"
_FILE = "/in"
_DISK = "disk.raw"
_PERCENT = re.compile(rb"\((\d+)\.\d+/100%\)")
# What `qemu-img check` answers with: fine, corruptions, clusters that nobody uses.
_CHECKED = (0, 2, 3)
_PIECES_IN_FLIGHT = "8"


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be and what looking at it may cost. `data_bytes` is what its disk may hold that is not zeros."""

    virtual_bytes: int = 4 << 40
    data_bytes: int = 256 << 30
    check_s: float = 120.0
    convert_s: float = 3600.0
    memory_bytes: int = 1 << 30


class ImageChecks:
    """Looks at one image at a time. `room_bytes` says what may still be written to the disk."""

    def __init__(self, sandbox: Sandbox, limits: ImageLimits, room_bytes: Callable[[], int]) -> None:
        self._sandbox, self._limits, self._room_bytes = sandbox, limits, room_bytes

    async def inspect(self, path: Path, file_format: str) -> int:
        """Return the size of the disk in the file, in bytes. Raises Refused."""
        argv, script = python_program(Path(inspect.__file__), (file_format, _FILE, str(self._limits.virtual_bytes)))
        found = self._json(await self._sandbox.run(Program(argv, [(path, _FILE), script], self._checking())))
        if "reason" in found:
            raise Refused(str(found["reason"]), str(found["message"]))
        virtual_bytes = int(found["virtual_bytes"])
        judge_info(file_format, virtual_bytes, self._json(await self._qemu_img(path, "info", "-f", file_format, "--output=json", _FILE)))
        if file_format == "qcow2":
            judge_check(self._json(await self._qemu_img(path, "check", "-f", file_format, "--output=json", _FILE), _CHECKED))
        return virtual_bytes

    async def convert(self, path: Path, folder: Path, virtual_bytes: int, progress: Callable[[int], None]) -> Path:
        """Convert a qcow2 file into a sparse raw one in `folder`, and return that. `progress` is told per cent.

        Raises Refused, ResourceExhausted STAGING_FULL.
        """
        room_bytes = self._room_bytes()
        limits = Limits(self._limits.convert_s, self._limits.memory_bytes, virtual_bytes, min(self._limits.data_bytes, room_bytes))
        argv = [_QEMU_IMG, "convert", "-p", "-f", "qcow2", "-O", "raw", "-W", "-m", _PIECES_IN_FLIGHT, _FILE, f"/out/{_DISK}"]

        def printed(text: bytes) -> None:
            if found := _PERCENT.findall(text):
                progress(min(100, int(found[-1])))

        ended = await self._sandbox.run(Program(argv, [(path, _FILE)], limits, folder), printed)
        if (ended.over == "size" and room_bytes < self._limits.data_bytes) or (ended.code and self._room_bytes() == 0):
            message = f"the disk of the image needs more than the {room_bytes} bytes that are free on this host"
            raise ResourceExhausted("STAGING_FULL", message, room_bytes=room_bytes)
        if ended.over == "size":
            raise Refused("TOO_LARGE", f"the disk holds more than {self._limits.data_bytes} bytes of data")
        self._refuse_unless(ended, (0,))
        disk = folder / _DISK
        # It was written by nobody in particular: nothing but a file of the right size is taken from there.
        if disk.is_symlink() or not disk.is_file() or disk.stat().st_size != virtual_bytes:
            raise Refused("CORRUPT", f"the disk did not come out with {virtual_bytes} bytes")
        return disk

    def _checking(self) -> Limits:
        return Limits(self._limits.check_s, self._limits.memory_bytes)

    async def _qemu_img(self, path: Path, *arguments: str) -> Ended:
        return await self._sandbox.run(Program([_QEMU_IMG, *arguments], [(path, _FILE)], self._checking()))

    def _json(self, ended: Ended, fine: tuple[int, ...] = (0,)) -> Mapping[str, Any]:
        self._refuse_unless(ended, fine)
        try:
            found = json.loads(ended.output)
        except ValueError as error:
            raise Unavailable("SANDBOX_FAILED", f"the jailed program printed no JSON: {ended.error}") from error
        if not isinstance(found, dict):
            raise Unavailable("SANDBOX_FAILED", "the jailed program printed no JSON object")
        return found

    def _refuse_unless(self, ended: Ended, fine: tuple[int, ...]) -> None:
        if ended.over:
            raise Refused("TOO_COMPLEX", f"looking at the image takes more {ended.over} than is given")
        if ended.code > 128:
            raise Refused("TOO_COMPLEX", f"looking at the image ended by signal {ended.code - 128}: {ended.error}")
        if ended.code not in fine:
            raise Refused("CORRUPT", f"qemu-img says: {ended.error or 'nothing'}")
