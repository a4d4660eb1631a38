"""Migration of programs for transformers' TensorFlow classes: what must change, line by line."""
