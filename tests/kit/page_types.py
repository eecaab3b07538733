"""The page's scripts under `tsc`, for `make check`: their JSDoc is their types, and tsconfig.json says how strictly.

Where tsc cannot be installed this is left out, except in continuous integration.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kit import tools

PROJECT = Path(__file__).resolve().parents[2]
TSC = tools.TOOLS / "typescript" / "node_modules" / ".bin" / "tsc"


def main() -> int:
    if not tools.is_installed("typescript"):
        tools.report(f"{tools.TOOLS.name}/typescript", lambda: tools.install("typescript"))
    if not tools.is_installed("typescript"):
        print("the page's scripts are not checked: that needs npm and a package registry")
        return 1 if os.environ.get("CI") else 0
    return subprocess.run([TSC, "--project", PROJECT]).returncode


if __name__ == "__main__":
    sys.exit(main())
