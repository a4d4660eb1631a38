"""Strings to ids and back: in the graph and on the host."""
