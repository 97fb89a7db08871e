"""One TFDS builder a data set."""
