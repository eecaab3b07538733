"""Serves Qwen-Image-Edit on this machine: `python -m standalone`, or `make serve`."""

import sys

from standalone.errors import LaunchError
from standalone.launcher import Launcher
from standalone.settings import Settings


def main() -> int:
    try:
        return Launcher(Settings.from_environment()).run()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
