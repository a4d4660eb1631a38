"""The layers of GPT-2 and their functions: attention, KV cache, losses, int8, low-rank adapters."""
