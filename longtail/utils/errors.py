"""What other libraries' errors say, for messages of one line."""


def first_line(error: Exception) -> str:
    """Of the message, or the type of an error without one; libraries add hints of many lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
