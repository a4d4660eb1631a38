"""Decoding strategies: how the next tokens are chosen."""
