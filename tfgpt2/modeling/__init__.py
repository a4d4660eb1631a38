"""The GPT-2 network: pure functions on tensors in the middle, Keras layers at the edge."""
