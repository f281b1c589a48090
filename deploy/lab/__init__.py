"""A lab of several hosts on one machine: each a network, processes and mounts of its own, on an underlay that no other network touches."""
