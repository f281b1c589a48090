"""`kumo call`: any method with a request in JSON, by what the server says of itself (gRPC reflection)."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
import grpc

from cli.failure import Exit, Failure
from cli.session import Session, pass_session


@click.command(
    "call",
    help="""Call a method of the API with a request in JSON.

\b
Examples:
  kumo call                                            (list the services)
  kumo call Servers                                    (list its methods)
  kumo call Servers/ListServers '{"parent": "projects/default"}'
  kumo call Servers/GetServer - < request.json""",
)
@click.argument("method", required=False)
@click.argument("request", required=False, default="{}")
@pass_session
def command(session: Session, method: str | None, request: str) -> None:
    services = _Services(session)
    if not method:
        print("\n".join(sorted(services.names)))
        return
    service_name, _, method_name = method.rpartition("/")
    service = services.find(service_name or method_name)
    if not service_name:
        for each in service.methods:
            asked, answered = (_streamed(each.client_streaming, each.input_type), _streamed(each.server_streaming, each.output_type))
            print(f"{service.name}/{each.name}  {asked} → {answered}")
        return
    chosen = service.methods_by_name.get(method_name)
    if chosen is None:
        raise Failure(
            f'{service.name} has no method "{method_name}"',
            f"it has: {', '.join(each.name for each in service.methods)}",
            f"kumo call {service.name}",
            Exit.NOT_FOUND,
        )
    _run(session, services, chosen, sys.stdin.read() if request == "-" else request)


def _streamed(many: bool, kind: Any) -> str:
    return f"{'stream ' if many else ''}{kind.name}"


def _run(session: Session, services: "_Services", method: Any, text: str) -> None:
    from google.protobuf import json_format, message_factory

    from cli.client import failure

    input_class, output_class = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
    documents = _documents(text, method)
    try:
        messages = [json_format.ParseDict(item, input_class(), descriptor_pool=services.pool) for item in documents]
    except json_format.ParseError as error:
        fields = ", ".join(field.name for field in method.input_type.fields) or "none"
        raise Failure(
            f"the request is no {method.input_type.name}", str(error).splitlines()[0], f"use its fields: {fields}", Exit.USAGE
        ) from error
    path = f"{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            answers: Iterable[Any] = session.client.duplex(path, messages, output_class)
        elif method.server_streaming:
            answers = session.client.stream(path, messages[0], output_class)
        else:
            answers = [session.client.unary(path, messages[0], output_class, doing=f"call {method.name}")]
        for answer in answers:
            print(json_format.MessageToJson(answer, preserving_proto_field_name=True, descriptor_pool=services.pool), flush=True)
    except grpc.RpcError as error:
        raise failure(error, f"call {method.name}", session.client.context) from error


def _documents(text: str, method: Any) -> list[Any]:
    """Return the messages that were written: one object, or a list of them where the method takes a stream. Raises Failure."""
    example = json.dumps({field.name: "…" for field in method.input_type.fields[:1]}, ensure_ascii=False)
    fix = f"kumo call {method.containing_service.name}/{method.name} '{example}'"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise Failure("the request is not JSON", str(error), fix, Exit.USAGE) from error
    documents = content if method.client_streaming and isinstance(content, list) else [content]
    if not all(isinstance(document, dict) for document in documents):
        takes = "an object, or a list of objects, since it takes a stream" if method.client_streaming else "one object"
        raise Failure(f"the request is no {method.input_type.name}", f"it has to be {takes}", fix, Exit.USAGE)
    return documents


class _Services:
    """The services of the server and their descriptors, fetched as they are needed."""

    def __init__(self, session: Session) -> None:
        from google.protobuf import descriptor_pool

        self._session = session
        self.pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()
        answer = self._ask(list_services="*")
        self.names = [service.name for service in answer.list_services_response.service]

    def find(self, name: str) -> Any:
        """Return the descriptor of the service called `name`, in full or by its last part."""
        matching = [full for full in self.names if full == name or full.rsplit(".", 1)[-1] == name]
        if len(matching) != 1:
            raise Failure(f'no one service is called "{name}"', f"there are: {', '.join(sorted(self.names))}", "kumo call", Exit.NOT_FOUND)
        self._load(self._ask(file_containing_symbol=matching[0]))
        return self.pool.FindServiceByName(matching[0])

    def _load(self, answer: Any) -> None:
        from google.protobuf import descriptor_pb2

        files = [descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in answer.file_descriptor_response.file_descriptor_proto]
        self._known.update(file.name for file in files)
        for file in files:
            for dependency in file.dependency:
                if dependency not in self._known:
                    self._load(self._ask(file_by_filename=dependency))
        for file in _in_order(files):
            self.pool.Add(file)

    def _ask(self, **question: str) -> Any:
        from grpc_reflection.v1alpha import reflection_pb2

        from cli.client import failure

        stream = self._session.client.duplex(
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            [reflection_pb2.ServerReflectionRequest(**question)],
            reflection_pb2.ServerReflectionResponse,
        )
        try:
            return next(iter(stream))
        except grpc.RpcError as error:
            raise failure(error, "ask the server for its services", self._session.client.context) from error


def _in_order(files: list[Any]) -> Iterator[Any]:
    """Yield files so that each comes after those of the list that it imports."""
    waiting = {file.name: file for file in files}
    while waiting:
        free = [file for file in waiting.values() if not any(dependency in waiting for dependency in file.dependency)]
        for file in free:
            yield waiting.pop(file.name)
