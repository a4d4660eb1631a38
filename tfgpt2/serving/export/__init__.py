"""Export: signatures, self-check, and the files of a SavedModel."""
