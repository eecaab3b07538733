"""What the launcher cannot do, said in one line that tells what to do about it."""


class LaunchError(Exception):
    """Ends the launcher with its message alone on standard error, exit status 1."""
