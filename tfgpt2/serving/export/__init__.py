"""SavedModels: signatures, files beside them, and the check before they get their name."""
