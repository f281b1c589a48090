"""The lab's etcd: one member, TLS for clients and peers, data under STATE/etcd. Decides its flags, and tells whether it serves."""

import http.client
import shutil
import ssl

from deploy.control import Service
from deploy.etcd_binary import Etcd
from deploy.files import make_directory
from deploy.layout import Lab, Port, User
from deploy.rights import service as service_of

QUOTA_BYTES = 8 << 30
HEALTH_S = 2.0


def prepare(lab: Lab, etcd: Etcd) -> None:
    """Copy the server to where its user can run it, and make its directories."""
    make_directory(lab.etcd)
    make_directory(lab.etcd / "data", User.ETCD, 0o700)
    target = lab.etcd / "etcd"
    if not target.exists() or target.stat().st_size != etcd.path.stat().st_size:
        fresh = target.with_suffix(".new")
        shutil.copyfile(etcd.path, fresh)
        fresh.chmod(0o755)
        fresh.replace(target)


def service(lab: Lab) -> Service:
    client, peer = f"https://{lab.address(Port.ETCD_CLIENT)}", f"https://{lab.address(Port.ETCD_PEER)}"
    tls = lab.etcd / "tls"
    flags = {
        "name": f"{lab.host}",
        "data-dir": str(lab.etcd / "data"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{lab.host}={peer}",
        "initial-cluster-token": f"kumo-{lab.region}",
        "quota-backend-bytes": str(QUOTA_BYTES),
        # A server with eight ports is made, and is freed, in one transaction.
        "max-txn-ops": "1024",
        "logger": "zap",
        "log-level": "warn",
    }
    for prefix in ("", "peer-"):
        flags |= {
            f"{prefix}cert-file": f"{tls}/server.crt",
            f"{prefix}key-file": f"{tls}/server.key",
            f"{prefix}trusted-ca-file": f"{tls}/ca.crt",
        }
    argv = [str(lab.etcd / "etcd"), "--client-cert-auth", "--peer-client-cert-auth"]
    argv += [f"--{name}={value}" for name, value in flags.items()]
    return service_of("etcd", argv, nofile=65536, env={"GOMEMLIMIT": "512MiB"})


def is_healthy(lab: Lab) -> bool:
    """Ask /health, which a member answers truly only when it has a leader and can write."""
    tls = lab.etcd / "tls"
    context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    context.load_cert_chain(tls / "health.crt", tls / "health.key")
    connection = http.client.HTTPSConnection(lab.addresses.management, lab.port(Port.ETCD_CLIENT), timeout=HEALTH_S, context=context)
    try:
        connection.request("GET", "/health")
        return b'"health":"true"' in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
