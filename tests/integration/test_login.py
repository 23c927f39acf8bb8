"""`access: login` on a whole local cloud: people log in with the official SDK's client and call servers of each kind.

The issuer is a server of the same fleet, so that containers reach it by https, and a person's browser does as well.
"""

import asyncio
import base64
import json
import re
from html import unescape
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

pytestmark = pytest.mark.integration

NUMBER = "481516234200"
BASE = {"BASE_IMAGE": "mcpfleet/base:python3.13"}
CALLBACK = "http://127.0.0.1:33418/callback"
SECRETS = {"oidc-client": "the-clients-secret", "login-key": base64.b64encode(bytes(range(32))).decode()}


def url_of(server):
    return f"https://mcp-{server}-{NUMBER}.europe-west1.run.app"


ISSUER = url_of("issuer")
LOGIN = {
    "oidc": {"issuer": ISSUER, "client": {"client_id": "mcp", "secret": "oidc-client", "version": "1"}},
    "members": ["user:ada@mcpfleet.test"],
    "key": {"secret": "login-key", "version": "1"},
}
ACCESS = {"access": {"login": LOGIN}}
SERVERS = {
    "issuer": {
        "source": {"folder": "issuer", "dockerfile": "Dockerfile", "build_args": BASE},
        "access": {"public": {"reason": "people log in here"}},
    },
    "reference": {"source": {"folder": ".", "dockerfile": "mcp_server/Dockerfile", "build_args": BASE}, **ACCESS},
    "time": {"source": {"stdio": {"pypi": "mcp-server-time==2026.10.19"}, "build_args": BASE}, **ACCESS},
}
CALLS = {
    "reference": ("whoami", {}, "ada@mcpfleet.test"),
    "time": ("get_current_time", {"timezone": "Europe/Zurich"}, "Europe/Zurich"),
}

DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY issuer.py key.json /
USER 65532:65532
CMD ["python3", "/issuer.py"]
"""
# An OpenID Connect issuer with the standard library alone. Who logs in is in the query of the authorization request.
ISSUER_PROGRAM = """
import base64, hashlib, http.server, json, os, time, urllib.parse
URL = os.environ["MCPFLEET_BASE_URL"]
KEY = json.load(open("/key.json"))
def b64(data): return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
def pack(value): return b64(json.dumps(value).encode())
def unpack(text): return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
def number(value): return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
def sign(claims):
    text = pack({"alg": "RS256", "kid": "1"}) + "." + pack(claims)
    prefix = bytes.fromhex("3031300d060960864801650304020105000420")
    digest = prefix + hashlib.sha256(text.encode()).digest()
    padded = b"\\x00\\x01" + b"\\xff" * (256 - 3 - len(digest)) + b"\\x00" + digest
    return text + "." + b64(pow(int.from_bytes(padded, "big"), KEY["d"], KEY["n"]).to_bytes(256, "big"))
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, status, value=None, location=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        if location: self.send_header("location", location)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        if path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            self.answer(200, {"issuer": URL, "scopes_supported": ["openid", "offline_access"],
                              "token_endpoint_auth_methods_supported": ["client_secret_post"],
                              **{name: URL + "/" + path for name, path in names.items()}})
        elif path == "/keys":
            key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256"}
            self.answer(200, {"keys": [key | {"n": number(KEY["n"]), "e": number(KEY["e"])}]})
        elif path == "/authorize":
            code = {name: asked[name] for name in ("nonce", "code_challenge", "person")}
            back = urllib.parse.urlencode({"code": pack(code), "state": asked["state"]})
            self.answer(302, location=asked["redirect_uri"] + "?" + back)
        else: self.answer(404)
    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
        if form["client_secret"] != "the-clients-secret": return self.answer(401, {"error": "invalid_client"})
        if form["grant_type"] == "refresh_token": known = unpack(form["refresh_token"])
        else:
            known = unpack(form["code"])
            if b64(hashlib.sha256(form["code_verifier"].encode()).digest()) != known["code_challenge"]:
                return self.answer(400, {"error": "invalid_grant"})
        now = int(time.time())
        claims = {"iss": URL, "aud": "mcp", "iat": now, "exp": now + 300, "sub": known["person"],
                  "email": known["person"] + "@mcpfleet.test", "email_verified": True, "nonce": known.get("nonce")}
        self.answer(200, {"id_token": sign(claims), "refresh_token": pack({"person": known["person"]})})
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


class LocalHosts(httpx2.AsyncBaseTransport):
    """Connects to a service's local port for its run.app name, as DNS would lead to it on Google."""

    def __init__(self, ports):
        self._ports = ports
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request):
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._ports[request.url.host])
        return await self._inner.handle_async_request(
            httpx2.Request(request.method, url, headers=request.headers, stream=request.stream)
        )

    async def aclose(self):
        await self._inner.aclose()


class Deployed:
    """The deployed fleet, and people with browsers and clients."""

    def __init__(self, checkout):
        self.checkout = checkout
        self.ports = {}

    def write(self, servers):
        file = self.checkout.place.root / "Pulumi.local.yaml"
        stack = yaml.safe_load(file.read_text())
        stack["config"]["mcpfleet:fleet"] = {"region": "europe-west1", "platform": "native", "servers": servers}
        file.write_text(yaml.safe_dump(stack))

    def up(self):
        """Deploy; only the issuer, which is no MCP server, fails its verification."""
        _, output = self.checkout.dev("up")
        assert "✓ pulumi up" in output, output
        failed = [line for line in output.partition("failed:")[2].splitlines() if line.strip().startswith("|")]
        assert all("|   issuer: " in line for line in failed), output
        return output

    def store_secrets(self):
        key = str(self.checkout.place.credentials / "deployer.json")
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        google = AuthorizedSession(service_account.Credentials.from_service_account_file(key, scopes=scopes))
        place = self.checkout.place.url
        enable = f"{place}/serviceusage/v1/projects/mcpfleet-local/services/secretmanager.googleapis.com:enable"
        assert google.post(enable, json={}).status_code == 200
        base = f"{place}/secretmanager/v1/projects/mcpfleet-local/secrets"
        for name, value in SECRETS.items():
            made = google.post(f"{base}?secretId={name}", json={"replication": {"automatic": {}}})
            assert made.status_code == 200, made.text
            data = {"payload": {"data": base64.b64encode(value.encode()).decode()}}
            assert google.post(f"{base}/{name}:addVersion", json=data).status_code == 200

    def find_ports(self):
        services = [
            item["outputs"]
            for item in self.checkout.state.resources
            if item["type"] == "gcp:cloudrunv2/service:Service"
        ]
        for service in services:
            host = urlsplit(url_of(service["name"].removeprefix("mcp-"))).netloc
            self.ports[host] = urlsplit(service["uri"]).port

    def http(self, **options):
        return httpx2.AsyncClient(transport=LocalHosts(self.ports), timeout=60, **options)

    async def log_in(self, url, person="ada"):
        """A person opens an authorization URL, allows, and logs in at the issuer; returns the last answer."""
        async with self.http() as browser:
            page = await browser.get(url, follow_redirects=True)
            assert page.status_code == 200, page.text
            sealed = unescape(re.search(r'name="request" value="([^"]+)"', page.text)[1])
            origin = f"https://{page.url.host}"
            form = {"request": sealed, "decision": "allow"}
            sent = await browser.post(str(page.url), data=form, headers={"origin": origin})
            assert sent.status_code == 303, sent.text
            confirmed = await browser.get(f"{sent.headers['location']}&{urlencode({'person': person})}")
            assert confirmed.status_code == 302, confirmed.text
            return await browser.get(confirmed.headers["location"])

    def sdk_auth(self, server, storage):
        answers = []

        async def open_browser(url):
            answer = await self.log_in(url)
            assert answer.status_code == 303, answer.text
            answers.append(httpx2.URL(answer.headers["location"]).params)

        async def wait_for_callback():
            answer = answers.pop()
            return AuthorizationCodeResult(code=answer["code"], state=answer["state"], iss=answer["iss"])

        metadata = OAuthClientMetadata.model_validate(
            {"redirect_uris": [CALLBACK], "client_name": "SDK", "token_endpoint_auth_method": "none"}
        )
        return OAuthClientProvider(f"{url_of(server)}/mcp", metadata, storage, open_browser, wait_for_callback)


class Tokens:
    """Where the SDK's client keeps its tokens."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client_info):
        self.client = client_info


async def call(deployed, server, storage):
    tool, arguments, _ = CALLS[server]
    async with (
        deployed.http(auth=deployed.sdk_auth(server, storage)) as http,
        Client(streamable_http_client(f"{url_of(server)}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool(tool, arguments)
        return "".join(part.text for part in result.content)


@pytest.fixture(scope="module")
def deployed(make_checkout):
    found = Deployed(make_checkout("login"))
    folder = found.checkout.place.root / "issuer"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "issuer.py").write_text(ISSUER_PROGRAM)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    (folder / "key.json").write_text(json.dumps({"n": key.public_numbers.n, "e": 65537, "d": key.d}))
    found.write({"issuer": SERVERS["issuer"]})
    found.up()
    found.store_secrets()
    found.write(SERVERS)
    found.up()
    found.find_ports()
    return found


@pytest.mark.parametrize("server", CALLS)
def test_a_person_logs_in_and_calls_a_tool_of_each_kind_of_source(deployed, server):
    assert CALLS[server][2] in asyncio.run(call(deployed, server, Tokens()))


def test_a_login_survives_the_end_of_every_instance(deployed, engine):
    storage = Tokens()
    asyncio.run(call(deployed, "reference", storage))
    for container in deployed.checkout.containers(engine):
        if container.labels["dev.mcpfleet.service"] == "mcp-reference":
            container.kill()

    async def refresh():
        async with deployed.http() as http:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": storage.tokens.refresh_token,
                "client_id": storage.client.client_id,
            }
            answer = await http.post(f"{url_of('reference')}/oauth/token", data=form)
            again = await http.post(f"{url_of('reference')}/oauth/token", data=form)
            return answer.status_code, again.json()["error"]

    assert asyncio.run(refresh()) == (200, "invalid_grant")
    assert "ada@mcpfleet.test" in asyncio.run(call(deployed, "reference", storage))


def test_who_is_not_a_member_is_told_so_and_gets_no_code(deployed):
    async def attempt():
        storage = Tokens()
        await call(deployed, "reference", storage)
        async with deployed.http() as http:
            parameters = {
                "response_type": "code",
                "client_id": storage.client.client_id,
                "redirect_uri": CALLBACK,
                "code_challenge": "x" * 43,
                "code_challenge_method": "S256",
            }
            url = str(http.build_request("GET", f"{url_of('reference')}/oauth/authorize", params=parameters).url)
        return await deployed.log_in(url, "bob")

    answer = asyncio.run(attempt())
    assert answer.status_code == 403
    assert "bob@mcpfleet.test" in answer.text


def test_a_token_of_one_server_is_worthless_at_another(deployed):
    async def attempt():
        storage = Tokens()
        await call(deployed, "reference", storage)
        headers = {"authorization": f"Bearer {storage.tokens.access_token}"}
        async with deployed.http() as http:
            return (await http.post(f"{url_of('time')}/mcp", json={}, headers=headers)).status_code

    assert asyncio.run(attempt()) == 401


def test_a_second_up_changes_nothing(deployed):
    output = deployed.up()
    assert "no changes" in output, output
