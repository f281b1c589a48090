"""Typed tables over etcd for the control plane: intent and status, guarded transactions, mirrors, watches, election."""
