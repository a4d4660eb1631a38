"""Constrained decoding: choices, regular expressions and JSON schemas as automata."""
