"""The layers of GPT-2 and what they compute: attention, caches, losses, int8, low-rank adapters."""
