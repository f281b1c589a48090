"""How a cell makes ports what they shall be."""
