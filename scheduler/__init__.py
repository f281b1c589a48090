"""Chooses a host for each server of a cell, books it, and says why when there is none."""
