"""transformers' pipelines: texts in, plain Python results out, one file a task."""
