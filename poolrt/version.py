"""The version, read by pyproject.toml."""

VERSION = "0.1.0"
