"""The storage nouns of a cell."""
