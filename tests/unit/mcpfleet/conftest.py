"""Google's side of identity, in memory: an issuer that signs, and a front end that really verifies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mcpfleet import cli
from mcpfleet.tokens import IdToken

HOUR = 3600.0
NO_CLOCK = {"verify_exp": False, "verify_iat": False}  # not the real one
PERSONS_AUDIENCE = "764086051850.apps.example"
FRONT_END_401 = {"content-type": "text/html; charset=UTF-8", "www-authenticate": 'Bearer error="invalid_token"'}


@pytest.fixture
def run_command(monkeypatch, capsys, tmp_path):
    """Runs the command as a shell would; returns (exit code, stdout, stderr)."""
    for home in ("HOME", "USERPROFILE", "APPDATA"):
        monkeypatch.setenv(home, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no Pulumi CLI
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("CLOUDSDK_CONFIG", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mcpfleet", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Clock:
    """Unix time that changes only when a test sets it."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class GoogleAnswer:
    """A response as google-auth expects it: status, headers, data."""

    def __init__(self, status, body, headers=None):
        self.status = status
        self.headers = headers or {"content-type": "application/json"}
        self.data = (body if isinstance(body, str) else json.dumps(body)).encode()


@dataclass
class Google:
    """Issues ID tokens as Google does, from the grants google-auth sends; verifies them as the front end does.

    An instance is itself a `google.auth.transport.Request`.
    """

    clock: Clock
    key: rsa.RSAPrivateKey
    asked: list[str] = field(default_factory=list)  # URLs, in order
    answer: Callable[[], GoogleAnswer] | None = None  # instead of a token, while set
    on_google: bool = False
    issued: int = 0

    def mint(self, audience, email="ada@acme.dev", lifetime=HOUR):
        self.issued += 1
        claims = {
            "iss": "https://accounts.google.com",
            "aud": audience,
            "email": email,
            "sub": "1",
            "iat": int(self.clock()),
            "exp": int(self.clock() + lifetime),
            "jti": str(self.issued),
        }
        return jwt.encode(claims, self.key, algorithm="RS256")

    def verify(self, header, audience):
        """The claims of a bearer header. Raises as a front end would refuse: signature, audience, expiry."""
        scheme, _, token = header.partition(" ")
        assert scheme == "Bearer"
        claims = jwt.decode(
            token,
            self.key.public_key(),
            algorithms=["RS256"],
            audience=audience,
            options=NO_CLOCK,
        )
        if claims["exp"] <= self.clock():
            raise jwt.ExpiredSignatureError("expired by the service's clock")
        return claims

    def __call__(self, url, method="GET", body=None, headers=None, timeout=None, **_):
        self.asked.append(url)
        if self.answer is not None:
            return self.answer()
        parts = urlsplit(url)
        if "computeMetadata" in parts.path or parts.hostname == "169.254.169.254":
            return self._metadata(parts)
        if parts.path.endswith(":generateIdToken"):
            # google-auth sends a JWT it signed itself; the issuer knows the key, so check it.
            bearer = {k.lower(): v for k, v in headers.items()}["authorization"].removeprefix("Bearer ")
            caller = jwt.decode(
                bearer, self.key.public_key(), algorithms=["RS256"], options={**NO_CLOCK, "verify_aud": False}
            )
            return GoogleAnswer(200, {"token": self.mint(json.loads(body)["audience"], caller["iss"])})
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if form["grant_type"] == "refresh_token":
            assert form["refresh_token"] == "adas-refresh-token"
            token = self.mint(form["client_id"])
            return GoogleAnswer(200, {"access_token": "ya29.x", "expires_in": 3599, "id_token": token})
        assertion = jwt.decode(
            form["assertion"],
            self.key.public_key(),
            algorithms=["RS256"],
            audience="https://oauth2.googleapis.com/token",
        )
        return GoogleAnswer(200, {"id_token": self.mint(assertion["target_audience"], assertion["iss"])})

    def _metadata(self, parts):
        flavour = {"metadata-flavor": "Google", "content-type": "text/plain"} if self.on_google else {}
        if parts.path.endswith("/identity"):
            audience = parse_qs(parts.query)["audience"][0]
            return GoogleAnswer(200, self.mint(audience, "runtime@acme.iam.gserviceaccount.com"), flavour)
        if "service-accounts" in parts.path:
            account = {"email": "runtime@acme.iam.gserviceaccount.com", "scopes": [], "aliases": []}
            return GoogleAnswer(200, account, {**flavour, "content-type": "application/json"})
        return GoogleAnswer(200, "", flavour)


@dataclass
class IssuerSource:
    """A token source of the in-memory issuer; a test can make it fail."""

    google: Google
    lifetime: float = HOUR
    error: Exception | None = None
    fetched: int = 0
    any_audience: bool = True
    issues_fresh_tokens: bool = False
    name: str = "test login"

    def fetch(self, audience):
        self.fetched += 1
        if self.error is not None:
            raise self.error
        return IdToken.parse(self.google.mint(audience, lifetime=self.lifetime), self.name)


class FrontEnd(httpx2.MockTransport):
    """A service that answers 200 to a token that really verifies, and Google's 401 to any other."""

    def __init__(self, google, audience):
        self.requests = []
        self.claims = []

        def answer(request):
            self.requests.append(request)
            try:
                claims = google.verify(request.headers.get("x-serverless-authorization", ""), audience)
            except (jwt.PyJWTError, AssertionError):
                return httpx2.Response(401, headers=FRONT_END_401)
            self.claims.append(claims)
            return httpx2.Response(200, text="hello")

        super().__init__(answer)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def signing_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def google(clock, signing_key):
    return Google(clock, signing_key)


@pytest.fixture
def source(google):
    return IssuerSource(google)


@pytest.fixture
def front_end(google):
    return lambda audience: FrontEnd(google, audience)


@pytest.fixture
def google_answer():
    return GoogleAnswer


@pytest.fixture
def key_file(tmp_path, signing_key):
    """Writes a service account's key file; keyword arguments change its fields."""

    def write(**changes):
        pem = signing_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        info = {
            "type": "service_account",
            "client_email": "deployer@acme.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": pem,
            "token_uri": "https://oauth2.googleapis.com/token",
        }
        path = tmp_path / "key.json"
        path.write_text(json.dumps({**info, **changes}))
        return path

    return write


@pytest.fixture
def login_file(tmp_path):
    """Writes a person's credentials file; keyword arguments change its fields, None removes one."""

    def write(path=None, **changes):
        info = {
            "type": "authorized_user",
            "client_id": PERSONS_AUDIENCE,
            "client_secret": "s",
            "refresh_token": "adas-refresh-token",
        }
        path = path or tmp_path / "login.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({name: value for name, value in {**info, **changes}.items() if value is not None}))
        return path

    return write
