"""Strings to ids and back: in the graph (layer.py) and on the host (host.py)."""
