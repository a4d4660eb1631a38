"""The models that users name: the base class, the language model, the task heads."""
