"""How a cell makes volumes what they shall be."""
