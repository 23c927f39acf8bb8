"""Finds the certificate authorities that this machine trusts in addition to its distribution's list.

A company's network, or a sandbox, may intercept TLS and sign with an authority of its own. A build inside a container
fails there unless the base image trusts that authority too.
"""

import hashlib
import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# The files of the package ca-certificates on Debian and Ubuntu.
DISTRIBUTION_FOLDER = Path("/usr/share/ca-certificates")
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def find_host_bundle(environ: Mapping[str, str]) -> Path | None:
    """Return the file of trusted certificates that this machine's programs use, or None if none is found."""
    named = [environ.get("SSL_CERT_FILE"), *_BUNDLES, ssl.get_default_verify_paths().openssl_cafile]
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def parse_certificates(text: str) -> list[str]:
    """Parse the PEM certificates in a text, in order, without duplicates and without other text."""
    return list(dict.fromkeys(_normalize(pem) for pem in _PEM.findall(text)))


def select_extra_certificates(bundle: str, distribution: Iterable[str]) -> list[str]:
    """Return the certificates of a bundle that are not the distribution's own, in a stable order.

    Args:
        bundle: The text of the machine's bundle.
        distribution: The texts of the files of the distribution's package. Without any (another kind of system),
            the result is empty: added certificates cannot be distinguished.
    """
    distribution_pems = {pem for text in distribution for pem in parse_certificates(text)}
    return (
        sorted(pem for pem in parse_certificates(bundle) if pem not in distribution_pems) if distribution_pems else []
    )


def read_extra_certificates(environ: Mapping[str, str], distribution: Path = DISTRIBUTION_FOLDER) -> list[str]:
    """Read the certificate authorities that were added to this machine."""
    bundle = find_host_bundle(environ)
    if bundle is None:
        return []
    files = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(distribution.rglob("*.crt")))
    return select_extra_certificates(bundle.read_text(encoding="utf-8", errors="replace"), files)


def file_name(pem: str) -> str:
    """Return the file name of a certificate in an image; update-ca-certificates requires `.crt`."""
    return f"host-{hashlib.sha256(pem.encode()).hexdigest()[:16]}.crt"


def _normalize(pem: str) -> str:
    return "\n".join(line.strip() for line in pem.splitlines() if line.strip()) + "\n"
