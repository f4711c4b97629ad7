"""The one exception a user can cause."""


class CastError(Exception):
    """Wrong input or configuration: one line that says which file or key, what is wrong and how to mend it.

    The command line prints the message after ``error:`` and exits with status 1. Anything else that
    escapes is a defect of this package and keeps its traceback.
    """
