"""How a cell makes networks what they shall be."""
