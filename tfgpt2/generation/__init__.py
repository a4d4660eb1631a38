"""Ids to ids: one compiled decode loop and the pure functions it is made of."""
