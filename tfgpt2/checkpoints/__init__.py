"""Checkpoints: formats that are read and written, tensor names, and loading into a model."""
