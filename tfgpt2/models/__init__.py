"""The Keras models: the base class, the language model, the task heads."""
