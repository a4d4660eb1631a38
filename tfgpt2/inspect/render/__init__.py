"""Rendering: HTML pages and matplotlib figures."""
