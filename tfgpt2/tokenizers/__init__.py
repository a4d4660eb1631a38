"""Tokenizers: text to token ids and back, in the graph and on the host."""
