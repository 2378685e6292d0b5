"""Certificates of a server and its clients, made for one run of the tests."""

from __future__ import annotations

import ssl
from pathlib import Path


class Certificates:
    """An authority, a server's certificate for ``localhost`` and 127.0.0.1, and a client's.

    Args:
        folder: for the files; any user may read them, as servers do not run as we do.

    Attributes:
        authority, certificate, key: files (PEM) of the server.
        client_certificate, client_key: files of a client.
    """

    def __init__(self, folder: Path) -> None:
        import trustme  # here: tests of the oldest dependencies have no certificates

        ca = trustme.CA()
        server, client = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("client@test")
        self.authority = folder / "authority.pem"
        self.certificate = folder / "server.pem"
        self.key = folder / "server.key"
        self.client_certificate = folder / "client.pem"
        self.client_key = folder / "client.key"
        ca.cert_pem.write_to_path(self.authority)
        for issued, certificate, key in (
            (server, self.certificate, self.key),
            (client, self.client_certificate, self.client_key),
        ):
            for blob in issued.cert_chain_pems:
                blob.write_to_path(certificate, append=True)
            issued.private_key_pem.write_to_path(key)

    def for_servers(self, *, clients_need_certificates: bool = False) -> ssl.SSLContext:
        """Return the settings of a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
        context.load_cert_chain(self.certificate, self.key)
        context.verify_mode = ssl.CERT_REQUIRED if clients_need_certificates else ssl.CERT_NONE
        return context

    def for_clients(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """Return the settings of a client."""
        context = ssl.create_default_context(cafile=self.authority)
        if with_certificate:
            context.load_cert_chain(self.client_certificate, self.client_key)
        return context
