"""What the command line can say went wrong."""


class CliError(Exception):
    """Something the user should read as one message, without a traceback."""

    next_steps: tuple[str, ...] = ()
    """What the user can do about it, a sentence each; for messages that do not say it themselves."""
