"""What reaches out of this package: services that other libraries talk to, each one an extra."""
