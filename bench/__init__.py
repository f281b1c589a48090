"""Repeatable measurements: each module but results is one benchmark, python -m bench.NAME --json."""
