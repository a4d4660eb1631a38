"""Logits processors: what changes the scores of a step, in the order of application."""
