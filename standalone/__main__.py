"""Serves Qwen-Image-Edit on this machine: `python -m standalone`, or `make serve`."""

import sys

import shim.settings
from standalone.errors import LaunchError
from standalone.launcher import Launcher
from standalone.parts import checked_settings


def main() -> int:
    try:
        return Launcher(checked_settings(shim.settings.Settings)).run()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
