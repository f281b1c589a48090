"""The network nouns of a cell."""
