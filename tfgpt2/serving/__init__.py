"""The SavedModel: its signatures and its export."""
