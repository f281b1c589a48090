"""Pools, hosts and events: what operators run the cloud by."""
