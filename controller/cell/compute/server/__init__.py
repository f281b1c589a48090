"""How a cell makes servers what they shall be."""
