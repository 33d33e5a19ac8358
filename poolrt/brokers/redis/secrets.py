"""A password that can be used, but not shown: its own repr hides it, and it is read from its file at each connect."""

from __future__ import annotations

import os
from typing import Final

from poolrt.errors import BrokerError

_MOST: Final = 64 * 1024
"""Bytes of a password file; more is not a password but a wrong path."""


class Secret:
    """A password: given in the URL, or the name of the file or environment variable that holds it."""

    __slots__ = ("_value", "env", "file")

    def __init__(self, value: str = "", *, file: str = "", env: str = "") -> None:
        self._value = value
        self.file = file
        self.env = env

    def __repr__(self) -> str:
        """Where it comes from, never what it is."""
        if self.file or self.env:
            return f"<Secret of {self.file or '$' + self.env}>"
        return "<Secret>" if self._value else "<no Secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str, str]:
        return self._value, self.file, self.env

    def __bool__(self) -> bool:
        return bool(self._value or self.file or self.env)

    @property
    def given(self) -> str:
        """What the URL itself holds; empty where a file or a variable does."""
        return self._value

    def read(self, where: str) -> str:
        """The password now: a file that was replaced since gives the new one.

        Raises:
            BrokerError: the file cannot be read, or the variable is not set.
        """
        if self.file:
            return self._of_file(where)
        if self.env:
            value = os.environ.get(self.env, "")
            if not value:
                raise BrokerError(f"{where}: the environment variable {self.env} holds no password; set it")
            return value
        return self._value

    def _of_file(self, where: str) -> str:
        try:
            with open(self.file, encoding="utf-8") as file:
                text = file.read(_MOST).rstrip("\r\n")
        except OSError as error:
            raise BrokerError(f"{where}: cannot read the password file {self.file}: {error.strerror}") from error
        except UnicodeDecodeError:
            text = ""  # its error would carry the bytes
        if not text or "\n" in text:
            raise BrokerError(f"{where}: the password file {self.file} must hold one line: the password")
        return text
