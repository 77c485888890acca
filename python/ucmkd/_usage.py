"""The error of the command line itself; imports nothing, so that ``ucmkd --help`` is quick."""


class UsageError(Exception):
    """Something the user can put right; shown as one line."""
