"""The certificate authorities that this machine trusts beyond its distribution's own list.

A company's network, or a sandbox, may open TLS and sign with an authority of its own. A build inside a
container fails there unless the base image trusts that authority too.
"""

import hashlib
import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# What the package ca-certificates brings on Debian and Ubuntu, and where an administrator adds to it.
DISTRIBUTION_FOLDER = Path("/usr/share/ca-certificates")
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def host_bundle(environ: Mapping[str, str]) -> Path | None:
    """Return the file of trusted certificates that this machine's programs use, or None if none is found."""
    named = [environ.get("SSL_CERT_FILE"), *_BUNDLES, ssl.get_default_verify_paths().openssl_cafile]
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def certificates(text: str) -> list[str]:
    """Return the PEM certificates in a text, in order, each once, without what is written between them."""
    return list(dict.fromkeys(_normal(pem) for pem in _PEM.findall(text)))


def extra_certificates(bundle: str, distribution: Iterable[str]) -> list[str]:
    """Return the certificates of a bundle that are not the distribution's own, in a stable order.

    Args:
        bundle: The text of the machine's bundle.
        distribution: The texts of the files that the distribution's package brought. Where there are none
            (another kind of system), nothing can be told apart and the answer is empty.
    """
    own = {pem for text in distribution for pem in certificates(text)}
    return sorted(pem for pem in certificates(bundle) if pem not in own) if own else []


def host_extras(environ: Mapping[str, str], distribution: Path = DISTRIBUTION_FOLDER) -> list[str]:
    """Return the authorities that somebody added to this machine."""
    bundle = host_bundle(environ)
    if bundle is None:
        return []
    files = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(distribution.rglob("*.crt")))
    return extra_certificates(bundle.read_text(encoding="utf-8", errors="replace"), files)


def file_name(pem: str) -> str:
    """Return the name under which a certificate is put into an image; update-ca-certificates wants `.crt`."""
    return f"host-{hashlib.sha256(pem.encode()).hexdigest()[:16]}.crt"


def _normal(pem: str) -> str:
    return "\n".join(line.strip() for line in pem.splitlines() if line.strip()) + "\n"
