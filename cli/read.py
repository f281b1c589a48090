"""Reads of the API that many commands begin with: one resource, or all below a parent. Prints nothing."""

from typing import Any

from cli.nouns import Noun
from cli.session import Session, message_of


def get(session: Session, noun: Noun, name: str, doing: str = "show") -> Any:
    request = message_of(noun, f"Get{noun.message}Request")(name=name)
    return session.client.unary(
        noun.method("Get"), request, message_of(noun, noun.message), doing=f'{doing} {noun.singular} "{name.rsplit("/", 1)[-1]}"'
    )


def listed(session: Session, noun: Noun, parent: str, query: str = "") -> tuple[list[Any], str]:
    """Return every resource below `parent` that matches, and the token from which a watch misses nothing."""
    client = session.client
    items: list[Any] = []
    page = resume = ""
    while True:
        request = message_of(noun, f"List{noun.plural.capitalize()}Request")(page_token=page, filter=query, page_size=1000)
        if parent:
            request.parent = parent
        answer = client.unary(
            noun.method("List", many=True),
            request,
            message_of(noun, f"List{noun.plural.capitalize()}Response"),
            doing=f"list {noun.plural}",
        )
        items += getattr(answer, noun.plural)
        resume = resume or answer.resume_token
        page = answer.next_page_token
        if not page:
            return items, resume
