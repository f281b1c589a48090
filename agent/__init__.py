"""The agent of a host: obeys the leader of its cell, remembers what it was told, and keeps the host so."""
