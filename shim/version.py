"""The version of everything in this repository; pyproject.toml reads it here."""

from __future__ import annotations

VERSION = "2.0.0"
