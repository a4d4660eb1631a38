"""A client for TensorFlow Serving and for the local server; it does not import TensorFlow."""
