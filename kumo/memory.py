"""Makes a process small once it has come to rest after its start. Decides nothing about what is kept."""

import asyncio
import ctypes
import gc

# By then modules are imported and mirrors are loaded, and what that took can go back.
REST_S = 5.0


async def settle(after_s: float = REST_S) -> None:
    """Wait, then collect, take what is left out of later collections, and return free memory to the system.

    What is there now stays for the life of the process: a collection need not look at it again, nor copy its pages.
    glibc keeps what was freed for later use; malloc_trim(3) gives some 5 MiB a process back.
    """
    await asyncio.sleep(after_s)
    gc.collect()
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)
