class UserError(Exception):
    """A mistake that the user can fix: the command line prints it as one line and exits with code 2.

    The message says what is wrong, where, and what to do about it.
    """

    def __str__(self) -> str:
        # a loader raises what its worker raised with the worker's whole traceback for a message
        return super().__str__().rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].rstrip("\n")


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, without the advice that may follow; its class if there is no message.

    Example:
        >>> first_line(OSError("no such file\ntry again")), first_line(EOFError())
        ('no such file', 'EOFError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
