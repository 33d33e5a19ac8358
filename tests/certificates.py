"""What a TLS server and its clients need, made with the ``openssl`` program."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path

import pytest


class Certificates:
    """An authority, a server's certificate for localhost and 127.0.0.1, a client's, and an authority nobody trusts."""

    def __init__(self, folder: Path) -> None:
        self._openssl = shutil.which("openssl") or pytest.skip("no openssl to make certificates with")
        self._folder = folder
        self.ca, self._ca_key = self._authority("ca")
        self.foreign_ca, _ = self._authority("foreign")
        self.server_cert, self.server_key = self._signed("server", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        self.named_cert, self.named_key = self._signed("named", "subjectAltName=DNS:elsewhere.test")
        self.client_cert, self.client_key = self._signed("client", "extendedKeyUsage=clientAuth")

    def of_another_name(self) -> Certificates:
        """The same, but the server's is for a name that it does not have."""
        other = copy.copy(self)
        other.server_cert, other.server_key = self.named_cert, self.named_key
        return other

    def _authority(self, name: str) -> tuple[Path, Path]:
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        # Two extensions that Python 3.13's stricter default asks of an authority; openssl adds the first by itself.
        self._run("req", "-x509", "-days", "30", *self._new_key(key), "-out", cert, "-subj", f"/CN={name}",
                  "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
        return cert, key

    def _signed(self, name: str, extension: str) -> tuple[Path, Path]:
        cert, key, request = (self._folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        self._run("req", *self._new_key(key), "-out", request, "-subj", f"/CN={name}", "-addext", extension)
        self._run("x509", "-req", "-days", "30", "-in", request, "-CA", self.ca, "-CAkey", self._ca_key,
                  "-CAcreateserial", "-copy_extensions", "copy", "-out", cert)  # fmt: skip
        return cert, key

    @staticmethod
    def _new_key(key: Path) -> tuple[object, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key)

    def _run(self, *arguments: object) -> None:
        done = subprocess.run([self._openssl, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
