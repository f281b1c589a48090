"""The compute nouns of a cell."""
