"""The image nouns of a cell."""
