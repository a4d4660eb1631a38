"""Constrained decoding: choices, regular expressions and JSON schemas compiled to DFAs."""
