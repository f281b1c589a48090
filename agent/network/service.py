"""The gRPC service Network: hands commands to the reconciler, which keeps them; the work follows by itself."""

import grpc

from agent.network.reconciler import NetworkReconciler
from kumo.api.agent.v1 import network_pb2_grpc
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyNetworkResponse, ApplyPortRequest, ApplyPortResponse

NetworkContext = grpc.aio.ServicerContext[ApplyNetworkRequest, ApplyNetworkResponse]
PortContext = grpc.aio.ServicerContext[ApplyPortRequest, ApplyPortResponse]


class NetworkService(network_pb2_grpc.NetworkServicer):
    """Answers when a command is on disk. Field rules, identity and errors are the interceptor's."""

    def __init__(self, network: NetworkReconciler) -> None:
        self._network = network

    async def ApplyNetwork(self, request: ApplyNetworkRequest, context: NetworkContext) -> ApplyNetworkResponse:
        return ApplyNetworkResponse(held=await self._network.apply_network(request, context.time_remaining()))

    async def ApplyPort(self, request: ApplyPortRequest, context: PortContext) -> ApplyPortResponse:
        return ApplyPortResponse(facts=await self._network.apply_port(request, context.time_remaining()))
