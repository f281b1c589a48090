"""`make status`, `make logs`, `make shell`: look at a running lab. Changes nothing.

usage: python -m deploy.look [--state DIR] status|logs|shell [NAME or COMMAND ...]
"""

import argparse
import os
import sys
from pathlib import Path

from deploy import control
from deploy.layout import Lab
from deploy.steps import fail
from deploy.up import add_lab_arguments, chosen_lab

SHOWN_BYTES = 16 << 10


def _memory_mib(pid: int) -> float:
    """Proportional set size: what the process costs, shared pages shared out."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _user(pid: int) -> str:
    """The user a process runs as now, which is not the one it was started as if it has given that up."""
    try:
        return str(Path(f"/proc/{pid}").stat().st_uid) if pid else "-"
    except OSError:
        return "-"


def status(lab: Lab) -> int:
    answer, inside = control.ask(lab, "status"), control.processes(lab)
    print(f"up: {lab.state}, ports from {lab.port_base}, {len(inside)} processes")
    print(f"{'NAME':22}{'STATE':10}{'PID':>8}{'USER':>8}{'UP':>10}{'STARTS':>8}{'PSS MiB':>10}")
    for one in answer["services"]:
        pid = inside.get(one["pid"], 0)
        left = f"{one['name']:22}{one['state']:10}{pid or '-':>8}{_user(pid):>8}"
        print(f"{left}{one['up_s']:>9.0f}s{one['starts']:>8}{_memory_mib(pid):>10.1f}")
    return 0 if all(one["state"] == "running" for one in answer["services"]) else 1


def logs(lab: Lab, names: list[str]) -> int:
    """Print the end of each log, or follow the one that is named."""
    if len(names) == 1:
        path = lab.log / f"{names[0]}.log"
        if not path.exists():
            there = ", ".join(sorted(file.stem for file in lab.log.glob("*.log")))
            fail("no such log", f"{path} does not exist", f"one of: {there}")
            return 1
        os.execvp("tail", ["tail", "-n", "200", "-F", str(path)])
    for path in sorted(lab.log.glob("*.log")):
        print(f"== {path}")
        data = path.read_bytes()[-SHOWN_BYTES:]
        print("\n".join(data.decode(errors="replace").splitlines()[-10:]))
    return 0


def shell(lab: Lab, command: list[str]) -> int:
    """Become a shell, or `command`, inside the lab's namespaces: its processes, its libvirt, its hostname."""
    pid = control.init_pid(lab)
    enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--pid"]
    os.execvp("nsenter", [*enter, "--", *(command or [os.environ.get("SHELL", "/bin/sh")])])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make status|logs|shell", description="Look at a running region.")
    add_lab_arguments(parser)
    parser.add_argument("what", choices=["status", "logs", "shell"])
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    lab = chosen_lab(arguments)
    try:
        match arguments.what:
            case "status":
                return status(lab)
            case "logs":
                return logs(lab, arguments.rest)
            case _:
                return shell(lab, arguments.rest)
    except control.Down as error:
        fail("the region is down", str(error), "make up")
        return 1


if __name__ == "__main__":
    sys.exit(main())
