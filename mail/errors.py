"""The one exception that a person is meant to read.

Everything a user can get wrong (a path, a file's content, a split's name, a config value) raises `UserError`, and the
command line prints its text as a single line and exits with code 2. Any other exception is a bug of ours.
"""


class UserError(Exception):
    """Wrong input: says what is wrong, where (file, row, id) and how to mend it."""
