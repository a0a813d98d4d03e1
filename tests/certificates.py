"""An authority and certificates of the tests' own, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from tests.conftest import require


class Authority:
    """``ca``: its PEM file. Certificates are for localhost, 127.0.0.1 and registry.test."""

    def __init__(self, place: Path) -> None:
        require("openssl")
        self.place = place
        self.ca = place / "ca.crt"
        self._run(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests", "-days", "2"),
        )

    def certificate(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        (self.place / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:registry.test\n")
        self._run(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
        )
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.crt", "-days", "2", "-extfile", "names"),
        )
        return self.place / f"{name}.crt", self.place / f"{name}.key"

    def server(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate("server"))
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.place, check=True, capture_output=True)
