"""How a cell makes attachments what they shall be."""
