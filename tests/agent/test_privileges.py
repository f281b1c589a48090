"""What the agent does not list it cannot have again, nor can what it starts."""

import subprocess
import sys
from pathlib import Path

from agent.privileges import Capability

PROGRAM = """
import subprocess
from agent import privileges
privileges.keep_only(frozenset({privileges.Capability.CHOWN, privileges.Capability.SETPCAP}))
print(open("/proc/self/status").read())
print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)
"""


def test_only_what_is_listed_is_left_to_the_process_and_to_its_children() -> None:
    checkout = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=checkout, capture_output=True, text=True, check=True)
    listed = 1 << Capability.CHOWN | 1 << Capability.SETPCAP
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        found = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith(kind)]
        assert len(found) == 2
        assert all(sets & ~listed == 0 for sets in found), (kind, found)
