"""Pings an address many times a second until its standard input ends, then prints how many were sent and how many answered.

usage: echo.py ADDRESS PER_SECOND
"""

import os
import select
import socket
import struct
import sys
import time


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def main(address: str, per_second: int) -> None:
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    identifier = int.from_bytes(os.urandom(2), "big")
    sent, answered, next_at, end_at = 0, set(), time.monotonic(), None
    print("running", flush=True)
    while end_at is None or (time.monotonic() < end_at and len(answered) < sent):
        readable, _, _ = select.select([opened] + ([sys.stdin] if end_at is None else []), [], [], max(0.0, next_at - time.monotonic()))
        if sys.stdin in readable:
            end_at = time.monotonic() + 1
        if opened in readable:
            data = opened.recv(2048)
            kind, _, _, same, number = struct.unpack_from(">BBHHH", data, (data[0] & 15) * 4)
            if kind == 0 and same == identifier:
                answered.add(number)
        if end_at is None and time.monotonic() >= next_at:
            head = struct.pack(">BBHHH", 8, 0, 0, identifier, sent & 0xFFFF)
            opened.sendto(head[:2] + struct.pack(">H", checksum(head)) + head[4:], (address, 0))
            sent += 1
            next_at = max(next_at + 1 / per_second, time.monotonic() - 0.05)
        elif end_at is not None:
            next_at = end_at
    print(sent, len(answered), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
