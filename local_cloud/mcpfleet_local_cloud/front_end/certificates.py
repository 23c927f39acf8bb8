"""The cloud's own certificate authority: TLS for `*.run.app` inside of containers, and for load balancers' domains.

The key lies in a file of mode 0600 in the cloud's state and leaves it never. Containers are told to trust the authority
(`bundle`); nothing else on this machine does, unless somebody tells it to.
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
_CACHED: Final = 512
_SYSTEM: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, Red Hat
)
Now = Callable[[], datetime.datetime]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """Signs certificates for whatever host is asked for.

    Args:
        folder: where its key and certificate lie; made at first use.
        now: the time.
    """

    def __init__(self, folder: Path, now: Now = _now) -> None:
        self._folder = folder
        self._now = now
        self.certificate: Final = folder / "ca.pem"
        """The authority's own certificate, for whoever wants to trust it."""
        key_path = folder / "ca.key"
        if not key_path.exists() or not self.certificate.exists():
            self._make(key_path)
        self._key = cast(
            "ec.EllipticCurvePrivateKey", serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        )
        self._ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        self._contexts: dict[str, ssl.SSLContext] = {}

    def bundle(self) -> Path:
        """A file with what this machine trusts, and the authority besides; readable for every user of a container."""
        system = next((path.read_text() for path in _SYSTEM if path.exists()), "")
        path = self._folder / "bundle.pem"
        content = system.rstrip("\n") + "\n" + self.certificate.read_text()
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        path.chmod(0o644)
        return path

    def context(self, allowed: Callable[[str], bool]) -> ssl.SSLContext:
        """A server's TLS context that shows, for each host that is *allowed*, a certificate of its own."""

        def choose(connection: ssl.SSLObject, host: str | None, _context: ssl.SSLContext) -> int | None:
            if not host or not allowed(host.lower()):
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = self._for(host.lower())
            return None

        outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outer.minimum_version = ssl.TLSVersion.TLSv1_2
        outer.set_alpn_protocols(["http/1.1"])
        self._load(outer, *self.issue("localhost"))
        outer.sni_callback = choose  # pyright: ignore[reportAttributeAccessIssue]  # the stubs name the base class
        return outer

    def issue(self, host: str) -> tuple[bytes, bytes]:
        """A new certificate for *host*, with the authority's behind it, and its key; both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = self._now()
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        made = (
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
        chain = made.public_bytes(pem) + self._ca.public_bytes(pem)
        return chain, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def _for(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            if len(self._contexts) >= _CACHED:
                del self._contexts[next(iter(self._contexts))]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_alpn_protocols(["http/1.1"])
            self._load(context, *self.issue(host))
            self._contexts[host] = context
        return self._contexts[host]

    def _load(self, context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
        # The ssl module reads certificates from files alone; mkstemp's are ours alone.
        with tempfile.NamedTemporaryFile(dir=self._folder) as file:
            file.write(chain + key)
            file.flush()
            context.load_cert_chain(file.name)

    def _make(self, key_path: Path) -> None:
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
        made = (
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
        self.certificate.write_bytes(made.public_bytes(pem))
        self.certificate.chmod(0o644)
