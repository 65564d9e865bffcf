"""What people are told when something cannot be: one line."""


class ConfigError(ValueError):
    """A setting that cannot be: the message names the field, the value and what is allowed."""


def first_line(error: BaseException) -> str:
    """Of what a library says is wrong, as part of a message of one line; the error's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
