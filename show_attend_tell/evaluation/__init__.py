"""Scores of captions, attention and gradients."""
