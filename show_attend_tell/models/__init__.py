"""Encoders, attention, the decoder and its search; knows no config and no loss."""
