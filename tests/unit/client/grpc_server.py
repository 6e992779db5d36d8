"""Triton's gRPC service in this process, answering as a test tells it: an independent end of the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

Handler = Callable[[Any, Any], Awaitable[Any]]


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Calls `handler(request, context)` for every inference; models in `ready` are."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.ready: set[str] = set()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.handler(request, context)

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name in self.ready)


@asynccontextmanager
async def served(service: Service, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The service's address; it stops at once at the end."""
    # Messages as large as Triton's own: what is limited is then the client.
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def answering(**tensors: tuple[str, list[int], bytes]) -> Handler:
    """A handler that gives those tensors: name → datatype, shape, raw bytes."""

    async def handle(request: Any, context: Any) -> Any:
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for wanted in request.outputs:
            datatype, shape, raw = tensors[wanted.name]
            response.outputs.add(name=wanted.name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(raw)
        return response

    return handle


def failing(status: str, text: str) -> Handler:
    async def handle(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode[status], text)

    return handle


class Hanging:
    """Never answers; tells when a request has come and when it was cancelled."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: Any, context: Any) -> Any:
        self.came.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
