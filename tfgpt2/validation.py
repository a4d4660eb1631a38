"""Checks of arguments that several rooms share."""
