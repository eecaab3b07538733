"""What a Python file imports, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path


def imported(source: Path) -> set[str]:
    """The modules by their full names, wherever in the file; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(source: Path) -> set[str]:
    """The first names of the modules that it imports."""
    return {name.partition(".")[0] for name in imported(source)}
