"""The rules of the API (STYLE section 9) as functions: each yields a complaint for whatever in a service breaks it."""

from collections.abc import Callable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from kumo.api.buf.validate import validate_pb2
from kumo.rpc.fields import (
    IDENTIFIER,
    INPUT_ONLY,
    OUTPUT_ONLY,
    REQUIRED,
    SECRET,
    UNSPECIFIED,
    audience_of,
    behaviors_of,
    is_map,
    is_own,
    value_type,
)
from tests.contract.contracts import is_public, resource_of

Rule = Callable[[ServiceDescriptor], Iterator[str]]

# Written with the change they explain and never changed: no intent, no state, no labels.
FLAT_NOUNS = frozenset({"Event"})
_RECORD = {
    "name": IDENTIFIER,
    "uid": OUTPUT_ONLY,
    "etag": None,
    "generation": OUTPUT_ONLY,
    "spec": REQUIRED,
    "status": OUTPUT_ONLY,
    "labels": None,
    "create_time": OUTPUT_ONLY,
    "update_time": OUTPUT_ONLY,
    "delete_time": OUTPUT_ONLY,
}
# A child made with its owner: a server's ports, root volume and attachments.
_CHILD = frozenset({"owner", "owner_uid"})
_VERBLESS = ("Create", "Get", "List", "Watch", "Update", "Delete")


def methods_are_standard(service: ServiceDescriptor) -> Iterator[str]:
    """A service is the plural of its noun, and has Get, List and Watch; every method takes its own request."""
    noun = resource_of(service)
    if noun is None:
        yield "has no single Get method to say what it is about"
        return
    plural = service.name
    if not plural.startswith(noun.name[:-1]) or not plural.endswith("s"):
        yield f"is not the plural of {noun.name}"
    wanted = {f"Get{noun.name}": noun.name, f"List{plural}": f"List{plural}Response", f"Watch{plural}": f"Watch{plural}Response"}
    optional = {f"{verb}{noun.name}": noun.name for verb in ("Create", "Update", "Delete")}
    for name, output in (wanted | optional).items():
        method = service.methods_by_name.get(name)
        if method is None:
            if name in wanted:
                yield f"lacks {name}"
        elif method.output_type.name != output:
            yield f"{name} answers with {method.output_type.name}, not {output}"
    for method in service.methods:
        if method.input_type.name != f"{method.name}Request":
            yield f"{method.name} takes {method.input_type.name}"
        if method.name.startswith(_VERBLESS) and method.name not in wanted | optional:
            yield f"{method.name} is no standard method of {noun.name}, but is called like one"
        if method.server_streaming != (method.name.startswith("Watch") or _is_bytes(method)) and method.name.startswith(_VERBLESS):
            yield f"{method.name} streams, or does not"


def reads_are_marked(service: ServiceDescriptor) -> Iterator[str]:
    for method in service.methods:
        if method.name.startswith(("Get", "List", "Watch")) and not _is_read(method):
            yield f"{method.name} does not say that it has no side effects"


def lists_have_pages_and_watches_have_tokens(service: ServiceDescriptor) -> Iterator[str]:
    noun = resource_of(service)
    for method in service.methods:
        if method.name == f"List{service.name}":
            yield from _lacks(method.input_type, {"page_size": "int32", "page_token": "string", "filter": "string"})
            yield from _lacks(method.output_type, {"next_page_token": "string", "resume_token": "string"})
            holds = [field for field in method.output_type.fields if field.message_type is noun and field.is_repeated]
            if len(holds) != 1:
                yield f"{method.output_type.name} does not hold the resources in one field"
        if method.name == f"Watch{service.name}":
            yield from _lacks(method.input_type, {"resume_token": "string", "filter": "string"})
            yield from _lacks(method.output_type, {"kind": "enum", "resume_token": "string"})
            if not any(field.message_type is noun and not field.is_repeated for field in method.output_type.fields):
                yield f"{method.output_type.name} does not hold the resource"


def mutations_can_be_tried_and_repeated(service: ServiceDescriptor) -> Iterator[str]:
    """Every mutation takes validate_only, every create and verb a request_id, every other but a create an etag."""
    noun = resource_of(service)
    for method in service.methods:
        if _is_read(method) or method.client_streaming:
            continue
        request = method.input_type
        yield from _lacks(request, {"validate_only": "bool"})
        is_create, is_update = method.name.startswith("Create"), method.name.startswith("Update")
        if not method.name.startswith(("Update", "Delete")):
            yield from _lacks(request, {"request_id": "string"})
        if is_update:
            yield from _lacks(request, {"update_mask": "message"})
        if (is_create or is_update) and not any(field.message_type is noun for field in request.fields):
            yield f"{request.name} does not hold the resource"
        if not is_create and not is_update:
            yield from _lacks(request, {"name": "string", "etag": "string"})


def nouns_are_records(service: ServiceDescriptor) -> Iterator[str]:
    noun = resource_of(service)
    if noun is None or noun.name in FLAT_NOUNS:
        return
    for name, behavior in _RECORD.items():
        field = noun.fields_by_name.get(name)
        if field is None:
            yield f"{noun.name} lacks {name}"
        elif behavior is not None and behavior not in behaviors_of(field):
            yield f"{noun.name}.{name} lacks its field_behavior"
    for field in noun.fields:
        if field.name in _CHILD:
            if OUTPUT_ONLY not in behaviors_of(field):
                yield f"{noun.name}.{field.name} is set by Kumo alone, but is not output only"
        elif field.name not in _RECORD:
            yield f"{noun.name}.{field.name} belongs into spec or status"
    status = noun.fields_by_name.get("status")
    if status is not None and status.message_type is not None:
        yield from _lacks(status.message_type, {"state": "enum", "observed_generation": "int64", "conditions": "message"})


def what_clients_send_has_behaviour_and_bounds(service: ServiceDescriptor) -> Iterator[str]:
    for path, field in _settable(service):
        if not behaviors_of(field):
            yield f"{path} says nothing of its field_behavior"
        yield from _unbounded(path, field)


def references_are_a_name_and_a_uid(service: ServiceDescriptor) -> Iterator[str]:
    noun = resource_of(service)
    for message in _messages(noun) if noun is not None and noun.name not in FLAT_NOUNS else []:
        for field in message.fields:
            where = f"{message.name}.{field.name}"
            if field.name.endswith("_uid"):
                if field.name.removesuffix("_uid") not in message.fields_by_name:
                    yield f"{where} is a uid without the name it was resolved from"
            elif _is_reference(field):
                uid = message.fields_by_name.get(f"{field.name}_uid")
                if uid is None or OUTPUT_ONLY not in behaviors_of(uid):
                    yield f"{where} is a reference without {field.name}_uid, output only"


def audiences_are_said_and_kept(service: ServiceDescriptor) -> Iterator[str]:
    """Every field has an audience; secrets are only taken in; nothing internal to Kumo can be reached from a public method."""
    for method in service.methods:
        for message in [*_messages(method.input_type), *_messages(method.output_type)]:
            if not is_public(message.file.package) and not message.file.package.startswith("kumo.api.type."):
                yield f"{method.name} reaches {message.full_name}, which is not public"
            for field in message.fields:
                if audience_of(field) == UNSPECIFIED and not message.GetOptions().map_entry:
                    yield f"{message.name}.{field.name} does not say who may see it"
                if audience_of(field) == SECRET and INPUT_ONLY not in behaviors_of(field):
                    yield f"{message.name}.{field.name} is a secret, but not input only"
                if field.message_type is not None and field.message_type.full_name == "google.protobuf.Any":
                    yield f"{message.name}.{field.name} can hold anything, so nothing can be hidden in it"


RULES: tuple[Rule, ...] = (
    methods_are_standard,
    reads_are_marked,
    lists_have_pages_and_watches_have_tokens,
    mutations_can_be_tried_and_repeated,
    nouns_are_records,
    what_clients_send_has_behaviour_and_bounds,
    references_are_a_name_and_a_uid,
    audiences_are_said_and_kept,
)

_TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}


def _lacks(message: Descriptor, wanted: dict[str, str]) -> Iterator[str]:
    for name, kind in wanted.items():
        field = message.fields_by_name.get(name)
        if field is None or _TYPES.get(field.type) != kind:
            yield f"{message.name} lacks {name}, of type {kind}"


def _is_read(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)


def _is_bytes(method: MethodDescriptor) -> bool:
    return any(field.type == FieldDescriptor.TYPE_BYTES for field in method.output_type.fields)


def _messages(root: Descriptor) -> list[Descriptor]:
    """Return `root` and every type of Kumo's that can occur in it."""
    found, queue = {root.full_name: root}, [root]
    while queue:
        for field in queue.pop().fields:
            kind = value_type(field)
            if kind is not None and is_own(kind) and kind.full_name not in found:
                found[kind.full_name] = kind
                queue.append(kind)
    return list(found.values())


def _settable(service: ServiceDescriptor) -> Iterator[tuple[str, FieldDescriptor]]:
    """Yield, with its path, every field that a client may set in a request of `service`."""
    for method in service.methods:
        queue: list[tuple[str, Descriptor]] = [(method.input_type.name, method.input_type)]
        seen: set[str] = set()
        while queue:
            path, message = queue.pop()
            seen.add(message.full_name)
            for field in message.fields:
                if behaviors_of(field) & {OUTPUT_ONLY, IDENTIFIER}:
                    continue
                yield f"{path}.{field.name}", field
                kind = value_type(field)
                if kind is not None and is_own(kind) and kind.full_name not in seen and not is_map(field):
                    queue.append((f"{path}.{field.name}", kind))


def _unbounded(path: str, field: FieldDescriptor) -> Iterator[str]:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if is_map(field):
        if not rules.map.HasField("max_pairs"):
            yield f"{path} may have any number of entries"
        if not _is_bounded(rules.map.keys) or not _is_bounded(rules.map.values):
            yield f"{path} may have keys or values of any length"
        return
    if field.is_repeated:
        if not rules.repeated.HasField("max_items"):
            yield f"{path} may have any number of items"
        rules = rules.repeated.items
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) and not _is_bounded(rules):
        yield f"{path} may be of any length"
    if field.type == FieldDescriptor.TYPE_ENUM and not rules.enum.defined_only:
        yield f"{path} may have a value that nobody defined"


def _is_bounded(rules: validate_pb2.FieldRules) -> bool:
    if rules.HasField("bytes"):
        return rules.bytes.HasField("max_len") or rules.bytes.HasField("len")
    text = rules.string
    if text.HasField("max_len") or text.HasField("len") or text.HasField("max_bytes") or "in" in [f.name for f, _ in text.ListFields()]:
        return True
    return text.WhichOneof("well_known") is not None or (text.HasField("pattern") and not set(text.pattern) & {"*", "+"})


def _is_reference(field: FieldDescriptor) -> bool:
    """True for a string that must look like the name of a resource."""
    pattern = field.GetOptions().Extensions[validate_pb2.field].string.pattern
    return field.type == FieldDescriptor.TYPE_STRING and pattern.startswith("^") and "s/[a-z]" in pattern and field.name != "name"
