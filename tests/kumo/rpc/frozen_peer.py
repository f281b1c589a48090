"""A process that offers Servers and streams one change, then nothing; a test stops it to see who notices.

usage: python -m tests.kumo.rpc.frozen_peer FOLDER    (root.crt, peer.crt and peer.key lie there; prints its port)
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from kumo.api.compute.v1 import server_pb2, server_pb2_grpc
from kumo.rpc.identity import everyone_is_operator
from kumo.rpc.server import Server
from kumo.tls import ServerTls, TlsFiles


class Servers(server_pb2_grpc.ServersServicer):
    """Answers a get, and a watch with one change."""

    async def GetServer(self, request: server_pb2.GetServerRequest, context: Any) -> server_pb2.Server:
        return server_pb2.Server(name=request.name)

    async def WatchServers(self, request: server_pb2.WatchServersRequest, context: Any) -> AsyncIterator[server_pb2.WatchServersResponse]:
        yield server_pb2.WatchServersResponse(resume_token="1")
        await asyncio.Event().wait()


async def main(folder: Path) -> None:
    tls = ServerTls(TlsFiles.in_folder(folder, "peer"), require_client=False)
    server = Server("127.0.0.1:0", tls, everyone_is_operator)
    servicer = Servers()  # type: ignore[abstract]  # the rest stays as it was generated
    server.add(server_pb2_grpc.add_ServersServicer_to_server, servicer)
    print(await server.start(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
