"""Serves Qwen-Image-Edit on this machine: `python -m standalone`, or `make serve`."""

import sys

import shim.settings
from standalone.errors import LaunchError
from standalone.launcher import Launcher
from standalone.parts import checked_settings


def main() -> int:
    try:
        settings = checked_settings(shim.settings.Settings)
        if not settings.allow_no_auth:
            refuse_open(shim.settings.Settings.from_environment())
        return Launcher(settings).run()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def refuse_open(settings: shim.settings.Settings) -> None:
    if settings.is_open:
        raise LaunchError(
            f"HOST={settings.host} without API_KEY: everybody who reaches this machine could edit; set API_KEY, "
            "or ALLOW_NO_AUTH=true"
        )


if __name__ == "__main__":
    sys.exit(main())
