"""Starting, stopping and removing a whole region on one machine. Uses the rest of Kumo; nothing imports it."""
