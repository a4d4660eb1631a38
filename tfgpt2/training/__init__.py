"""Training with `tf.data` and `model.fit`: data, optimizer, adapters, checkpoints, trainer."""
