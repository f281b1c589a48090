"""How full pools are."""

import json
import os
from collections.abc import Sequence

from kumo.errors import FailedPrecondition, Unavailable
from storage.rados import Connection


def pool_usage(connection: Connection, pools: Sequence[str]) -> tuple[int, int]:
    """Return what `pools`, which share their disks, can hold together and what they have taken, in bytes before replication. Blocks."""
    code, out, _ = connection.rados.mon_command(json.dumps({"prefix": "df", "format": "json"}), b"")
    if code:
        raise Unavailable("CEPH_FAILED", f"asking how full the cluster is: {os.strerror(-code)}")
    said = json.loads(out)
    if not said["stats"]["total_bytes"]:
        raise Unavailable("CEPH_STARTING", "the cluster does not know yet how large it is")
    stats = {pool["name"]: pool["stats"] for pool in said["pools"]}
    if missing := [name for name in pools if name not in stats]:
        raise FailedPrecondition("CEPH_MISSING", f"the cluster has no pool {', '.join(missing)}", pools=",".join(missing))
    used_bytes = sum(stats[name]["stored"] for name in set(pools))
    return used_bytes + min(stats[name]["max_avail"] for name in pools), used_bytes
