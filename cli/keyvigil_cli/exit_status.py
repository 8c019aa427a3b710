"""What a command's exit status says to scripts."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The contract's numbers. 3 and 4 are answers, not errors: what was asked for was found out, or was not."""

    FINE = 0
    ERROR = 1
    USAGE = 2
    UNHEALTHY = 3
    UNKNOWN = 4

    @classmethod
    def worst(cls, *found: "ExitStatus") -> "ExitStatus":
        """Return the one that says most: something unhealthy is worse news than something unknown."""
        return next((each for each in (cls.ERROR, cls.UNHEALTHY, cls.UNKNOWN) if each in found), cls.FINE)
