"""The signatures of an export, one file each."""
