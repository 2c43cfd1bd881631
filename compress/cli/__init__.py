"""The command line.

In: the words that a user typed. Out: files, progress on stderr, results on stdout, and an exit code. A module is
imported only by the command that needs it, so that `--help` answers at once.
"""
