"""Says how much a run takes on: `make test` a sample that fits its minutes, `make soak` (KUMO_SOAK=1) the whole."""

import os

IS_SOAK = os.environ.get("KUMO_SOAK") == "1"


def count(usual: int, soak: int) -> int:
    """Return how many of something this run does."""
    return soak if IS_SOAK else usual
