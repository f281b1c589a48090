"""libvirt's `qemu` hook: before QEMU runs, moves each of a guest's taps into the data plane and plugs it in, or refuses the start.

It works with no agent alive and does not call libvirt, which waits for it: the files of admission.py say what goes where. For a
tap that they do not name, and whenever anything fails, it ends with 1, and libvirt does not start the guest.

usage: python3 -I -S hook.py --state DIRECTORY GUEST OPERATION SUB-OPERATION EXTRA < domain.xml
"""

import os
import sys

_TAP = "<target dev='kt"


def taps_of(xml: str) -> list[str]:
    """Return the names of the taps in a domain's XML. libvirt writes it, and escapes all text in it: no description can hold one."""
    return ["kt" + rest.partition("'")[0] for rest in xml.split(_TAP)[1:]]


def plug_in(tap: str, directory: str) -> None:
    """Move one tap out of the namespace in which libvirt made it, onto its bridge. Raises OSError with what is wrong."""
    from agent.network import admission, links, netns
    from agent.network import rtnetlink as nl

    wanted = admission.get(directory, tap)
    if wanted is None:
        raise FileNotFoundError(f"{tap} is of no port whose rules are in force")
    with netns.visit(wanted.plane):
        plane = nl.Netlink()
    bridge = links.get(plane, wanted.bridge)
    if bridge is None:
        raise FileNotFoundError(f"{tap} has no bridge {wanted.bridge} to be plugged into")
    host = nl.Netlink()
    made = links.get(host, tap)
    if made is None:
        raise FileNotFoundError(f"{tap} was not made by libvirt")
    descriptor = os.open(wanted.plane, os.O_RDONLY | os.O_CLOEXEC)
    host.call_all([links.change(made.index, nl.u32(links.IFLA_NET_NS_FD, descriptor))])
    links.plug(plane, links.need(plane, tap), bridge, wanted.mac, wanted.mtu)


def main(arguments: list[str]) -> int:
    if len(arguments) < 4 or arguments[0] != "--state":
        print("usage: hook.py --state DIRECTORY GUEST OPERATION ...", file=sys.stderr)
        return 1
    directory, guest, operation = os.path.join(arguments[1], "taps"), arguments[2], arguments[3]
    if operation != "start":
        return 0
    for tap in taps_of(sys.stdin.read()):
        try:
            plug_in(tap, directory)
        except OSError as error:
            print(f"{guest}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    # libvirt starts this file by its path, with no site packages.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.exit(main(sys.argv[1:]))
