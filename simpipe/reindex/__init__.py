"""Bringing a release up to date: what changed, which partitions it touches, and their new files."""
