"""The client over TLS, against an etcd that demands certificates of one authority."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kumo.authority import Authority, Subject, issue, new_root
from kumo.errors import Unavailable
from kumo.store import ops
from kumo.store.client import Etcd, Patience
from kumo.store.plane import Plane
from kumo.tls import TlsFiles
from tests.etcd import cluster
from tests.kumo.store.things import create, thing, things

NOW = datetime.now(UTC)
PATIENT = Patience(per_try_s=10.0, request_s=20.0)


def files(folder: Path, trusted: Authority, signer: Authority, subject: Subject) -> TlsFiles:
    made = TlsFiles.in_folder(folder, "leaf")
    folder.mkdir()
    made.write(trusted.cert_pem, issue(signer, subject, NOW, timedelta(hours=1)))
    return made


async def test_only_a_client_with_a_certificate_of_the_right_authority_gets_in(tmp_path: Path) -> None:
    ours, others = new_root("etcd", NOW), new_root("others", NOW)
    server = files(tmp_path / "server", ours, ours, Subject("etcd", addresses=("127.0.0.1",)))
    with cluster(tls=server) as one:
        async with Etcd(one.addresses, files(tmp_path / "client", ours, ours, Subject("region")), patience=PATIENT) as etcd:
            plane = await Plane.open(etcd, "/tls", format_version=1)
            table = things(plane)
            async with plane:
                await create(plane, table, thing("a/1"))
                assert (await etcd.lease(5)).is_held()
        for name, trusted, signer in (("foreign", ours, others), ("deceived", others, ours)):
            tls = files(tmp_path / name, trusted, signer, Subject("region"))
            async with Etcd(one.addresses, tls, patience=Patience(request_s=1.0)) as stranger:
                with pytest.raises(Unavailable):
                    await stranger.txn(success=[ops.put(b"/tls/x", b"")])
        async with Etcd(one.addresses, patience=Patience(request_s=1.0)) as plain:
            with pytest.raises(Unavailable):
                await plain.connect()
