"""Captions and their attention from trained runs."""
