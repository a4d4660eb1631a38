"""Checkpoints converted from one format to another."""
