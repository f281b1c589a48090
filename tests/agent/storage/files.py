"""Files of images for tests, made by qemu-img and qemu-io."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from kumo.ids import new_uid


async def run(*argv: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*map(str, argv), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    said, _ = await process.communicate()
    assert process.returncode == 0, said


async def qcow2_file(folder: Path, size_bytes: int, content: Mapping[int, bytes] | None = None, *options: str) -> Path:
    """Return a new qcow2 file with `content` by offset; `options` go to qemu-img convert."""
    raw, path = folder / f"{new_uid()}.raw", folder / f"{new_uid()}.qcow2"
    with raw.open("wb") as file:
        for offset, data in (content or {}).items():
            file.seek(offset)
            file.write(data)
        file.truncate(size_bytes)
    await run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *options, raw, path)
    raw.unlink()
    return path
