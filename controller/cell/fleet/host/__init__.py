"""How a cell makes hosts what they shall be."""
