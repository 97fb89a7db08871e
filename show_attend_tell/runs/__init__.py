"""Run folders, and what is built from settings."""
