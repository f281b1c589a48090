"""How a cell makes pools what they shall be."""
