"""Strings in, strings out: `TextGenerator` and the pipeline inside it."""
