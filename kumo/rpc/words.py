"""Says in words what a rule of the contract asks for where protovalidate would show a regular expression. Pure."""

import re

_ID = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
_OF_ID = "1 to 63 of a-z, 0-9 and -, from a letter to a letter or digit"
_PATTERN = re.compile(r"^does not match regex pattern `\^(.*)\$`$", re.DOTALL)
_WORDS = {
    _ID: f"must be {_OF_ID}",
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?": "must be 1 to 63 of a-z, 0-9 and -, with - at neither end",
    "[a-z]([a-z0-9_./-]{0,61}[a-z0-9])?": "must be 1 to 63 of a-z, 0-9, _, ., / and -, from a letter to a letter or digit",
    "[0-9a-f]{64}": "must be 64 digits of 0-9 and a-f, as sha256sum prints them",
    "([0-9a-f]{2}:){5}[0-9a-f]{2}": "must be a MAC address in lower case, such as 02:00:5e:10:00:01",
    "(\\[[0-9a-fA-F:.]+\\]|[0-9.]+):[0-9]{1,5}": "must be ADDRESS:PORT, such as 10.0.0.2:7402",
    "(ssh|ecdsa|sk)-[^\\n\\r]+": "must be one public key as a .pub file has it, such as ssh-ed25519 AAAA… me@here",
}


def rule_in_words(rule: str) -> str:
    """Return protovalidate's text of a rule, with a known pattern, or that of a resource name, replaced by what it means."""
    found = _PATTERN.match(rule)
    if found is None:
        return rule
    pattern = found[1]
    if pattern in _WORDS:
        return _WORDS[pattern]
    if re.match(r"[a-z]+/[(\[]", pattern):
        return f"must be {_as_template(pattern)}, where each name is {_OF_ID}"
    return rule


def _as_template(pattern: str) -> str:
    """Return projects/NAME/servers/NAME for the pattern of a server's name."""
    template = pattern.replace(f"(-|{_ID})", "NAME (or -)").replace(_ID, "NAME")
    return template.replace("[a-z0-9-]{1,63}", "NAME")
