"""The cloud's own certificate authority: TLS for `*.run.app` inside of containers, and for load balancers' domains.

The key is in a file of mode 0600 in the cloud's state, and never leaves it. Containers trust the authority
(`write_bundle`); nothing else on this machine does, unless the user configures it.
"""

import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcpfleet_local_cloud.state.folder import write_private

_YEARS: Final = 10
_DAYS: Final = 90
_CACHED_CONTEXTS: Final = 512
_SYSTEM_BUNDLES: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, Red Hat
)
Now = Callable[[], datetime.datetime]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CertificateAuthority:
    """Issues certificates for any host.

    Args:
        folder: The folder of its key and certificate, which are created at first use.
        now: Returns the current time.
    """

    def __init__(self, folder: Path, now: Now = _now) -> None:
        self._folder = folder
        self._now = now
        self.certificate: Final = folder / "ca.pem"
        """The file with the authority's own certificate."""
        key_path = folder / "ca.key"
        if not key_path.exists() or not self.certificate.exists():
            self._create(key_path)
        self._key = cast(
            "ec.EllipticCurvePrivateKey", serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        )
        self._ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        self._contexts: dict[str, ssl.SSLContext] = {}

    def write_bundle(self) -> Path:
        """Write a file with this machine's trusted certificates and the authority's; containers' users can read it."""
        system = next((path.read_text() for path in _SYSTEM_BUNDLES if path.exists()), "")
        path = self._folder / "bundle.pem"
        content = system.rstrip("\n") + "\n" + self.certificate.read_text()
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        path.chmod(0o644)
        return path

    def create_tls_context(self, is_allowed: Callable[[str], bool]) -> ssl.SSLContext:
        """Create a server's TLS context, with a certificate of its own for each host that is allowed."""

        def choose(connection: ssl.SSLObject, host: str | None, _context: ssl.SSLContext) -> int | None:
            if not host or not is_allowed(host.lower()):
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = self._host_context(host.lower())
            return None

        default_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        default_context.minimum_version = ssl.TLSVersion.TLSv1_2
        default_context.set_alpn_protocols(["http/1.1"])
        self._load(default_context, *self.issue("localhost"))
        default_context.sni_callback = choose  # pyright: ignore[reportAttributeAccessIssue]  # the stubs name the base class
        return default_context

    def issue(self, host: str) -> tuple[bytes, bytes]:
        """Issue a certificate for *host*; return its chain with the authority's, and its key, both as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._now()
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        chain = certificate.public_bytes(pem) + self._ca.public_bytes(pem)
        return chain, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def _host_context(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            if len(self._contexts) >= _CACHED_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols(["http/1.1"])
            self._load(context, *self.issue(host))
            self._contexts[host] = context
        return self._contexts[host]

    def _load(self, context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
        # The ssl module reads certificates only from files; a temporary file is readable by its owner only.
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            file.write(chain + key)
            file.flush()
            context.load_cert_chain(file.name)

    def _create(self, key_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mcpfleet local cloud")])
        now = self._now()
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        content = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(key_path, content.decode())
        self.certificate.write_bytes(certificate.public_bytes(pem))
        self.certificate.chmod(0o644)
