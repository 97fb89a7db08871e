"""Data sets, vocabularies and batches; knows no model."""
