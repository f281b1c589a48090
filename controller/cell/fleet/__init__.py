"""The fleet nouns of a cell."""
