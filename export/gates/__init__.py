"""What files must pass before they have their final name. In: a candidate and images. Out: the file, or a GateError."""
