"""What all packages stand on: errors and exit codes, what people see, signals, whole files."""
