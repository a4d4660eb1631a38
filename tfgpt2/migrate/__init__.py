"""What of a program for transformers' TensorFlow classes works here, line by line."""
