"""Compute: the servers of a host, as domains of libvirt."""
