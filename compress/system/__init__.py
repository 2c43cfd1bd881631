"""The base of all packages: errors and exit codes, the console, signals and atomic files."""
