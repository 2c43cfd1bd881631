"""The command line. In: the words that a user typed. Out: files, lines on stderr, results on stdout, and an exit code.

Nothing is imported before the command that needs it, so that `--help` answers at once.
"""
