"""One writer for each checkpoint format that can be written."""
