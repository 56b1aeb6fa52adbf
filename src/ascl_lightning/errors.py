class UserError(Exception):
    """A mistake that the user can mend: the command line prints it as one line and exits with code 2.

    The message says what is wrong, where, and what to do about it.
    """
