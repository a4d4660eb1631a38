"""Conversion of checkpoints between formats, with verification."""
