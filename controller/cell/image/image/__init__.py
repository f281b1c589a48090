"""How a cell makes images what they shall be."""
