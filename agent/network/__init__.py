"""The network of a host: tenants' links in a namespace of their own, packet rules that fail closed, and what guests are told."""
