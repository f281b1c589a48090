"""`kumo event`: list and show."""

from cli import standard

command = standard.group("event", mutable=False)
