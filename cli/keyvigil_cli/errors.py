"""What the command line can say went wrong."""


class CliError(Exception):
    """Something the user should read as one message, without a traceback."""
