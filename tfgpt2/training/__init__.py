"""Training on `tf.data` with `model.fit`: data, losses, adapters."""
