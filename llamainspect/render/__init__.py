"""Faces of a report. Nothing here computes: it cannot reach anything that does."""
