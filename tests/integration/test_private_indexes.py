"""Builds with a private index: BuildKit passes the password, and no layer of the image has it.

./dev test --as-root -m corpus -k private
"""

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

import pytest

from pulumi_mcpfleet.sources import BuildOptions, Layout, plan_build
from tests.corpus.servers import NODE_HTTP, NPM_LOCK, PY_HTTP, package, project
from tests.integration.built_sources import answers, docker, image_of, served

pytestmark = [pytest.mark.corpus, pytest.mark.integration, pytest.mark.timeout(900)]

PASSWORD = "a-password-of-the-private-index"  # pragma: allowlist secret
BASIC = "Basic " + base64.b64encode(f"deployer:{PASSWORD}".encode()).decode()


def wheel():
    """A package of Python that is in no public index."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("acme_private/__init__.py", "def shout(text):\n    return text.upper()\n")
        place = "acme_private-1.0.0.dist-info"
        archive.writestr(f"{place}/METADATA", "Metadata-Version: 2.1\nName: acme-private\nVersion: 1.0.0\n")
        archive.writestr(
            f"{place}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{place}/RECORD", "")
    return content.getvalue()


def tarball():
    """Create the archive of an npm package."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in {
            "package.json": json.dumps({"name": "@acme/private", "version": "1.0.0", "main": "index.js"}),
            "index.js": "module.exports = (text) => text.toUpperCase();\n",
        }.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return content.getvalue()


WHEEL, TARBALL = wheel(), tarball()


@pytest.fixture
def index():
    """An index that gives its packages to whoever shows the password; gives its address, and how often it refused."""
    refused = []
    files = {
        "/simple/acme-private/": b'<a href="/files/acme_private-1.0.0-py3-none-any.whl">x</a>',
        "/files/acme_private-1.0.0-py3-none-any.whl": WHEEL,
        "/npm/@acme/private/-/private-1.0.0.tgz": TARBALL,
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            known = self.headers.get("authorization") in (BASIC, f"Bearer {PASSWORD}")
            content = files.get(self.path, b"") if known else b""
            if not known:
                refused.append(self.path)
            self.send_response(401 if not known else 200 if content else 404)
            self.send_header("content-type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - as the library calls it

    gateway = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    server = http.server.ThreadingHTTPServer((gateway, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{gateway}:{server.server_port}", refused
    server.shutdown()
    server.server_close()


def secret(tmp_path, name):
    file = tmp_path / "secret"
    file.write_text(PASSWORD)
    return [f"--secret=id={name},src={file}"]


def write(tmp_path, files):
    source = tmp_path / "source"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    return source


def test_a_private_python_index_is_available_only_to_the_build(index, tmp_path):
    address, _ = index
    more = f'[[tool.uv.index]]\nname = "acme"\nurl = "http://{address}/simple/"\nexplicit = true\n'
    more += '[tool.uv.sources]\nacme-private = {index = "acme"}\n'
    manifest = project(needs='"iniconfig==2.1.0", "acme-private"', build="", more=more)
    server = PY_HTTP.replace("said.upper()", "acme_private.shout(said)").replace(
        "import json,", "import acme_private, json,"
    )
    source = write(tmp_path, {"pyproject.toml": manifest, "server.py": server, "README.md": "gruezi-is-not-a-secret"})
    user = {"UV_INDEX_ACME_USERNAME": "deployer"}
    wish = BuildOptions(build_args=user, build_secrets=["UV_INDEX_ACME_PASSWORD"])
    recipe = plan_build(Layout.read(source), wish)
    with image_of(recipe.dockerfile, source, user, secret(tmp_path, "UV_INDEX_ACME_PASSWORD")) as image:
        with served(image) as url:
            answers(url, "shout", {"text": "gruezi"}, "GRUEZI")
        nowhere(image, tmp_path)


def test_a_private_npm_registry_is_available_only_to_the_build(index, tmp_path):
    address, _ = index
    lock = json.loads(NPM_LOCK)
    lock["packages"][""]["dependencies"]["@acme/private"] = "1.0.0"
    lock["packages"]["node_modules/@acme/private"] = {
        "version": "1.0.0",
        "resolved": f"http://{address}/npm/@acme/private/-/private-1.0.0.tgz",
        "integrity": "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode(),
    }
    needs = {"ms": "2.1.3", "@acme/private": "1.0.0"}
    files = {
        "package.json": package(main="index.js", dependencies=needs),
        "package-lock.json": json.dumps(lock),
        "README.md": "gruezi-is-not-a-secret",
        ".npmrc": f"@acme:registry=http://{address}/npm/\n//{address}/npm/:_authToken=${{NPM_TOKEN}}\n",
        "index.js": NODE_HTTP.replace(
            "params.arguments.text.toUpperCase()", 'require("@acme/private")(params.arguments.text)'
        ),
    }
    source = write(tmp_path, files)
    recipe = plan_build(Layout.read(source), BuildOptions(build_secrets=["NPM_TOKEN"]))
    with image_of(recipe.dockerfile, source, options=secret(tmp_path, "NPM_TOKEN")) as image:
        with served(image) as url:
            answers(url, "shout", {"text": "gruezi"}, "GRUEZI")
        nowhere(image, tmp_path)


def nowhere(image, tmp_path):
    """Check that neither a layer nor the image's history has the password."""
    saved = tmp_path / "image.tar"
    docker("save", "--output", str(saved), image)
    seen = False
    with tarfile.open(saved) as outer:
        for layer in outer:
            content = outer.extractfile(layer)
            if content is None:
                continue
            said = content.read()
            assert PASSWORD.encode() not in said
            assert BASIC.encode() not in said
            seen = seen or b"gruezi-is-not-a-secret" in said
    assert seen, "the layers can be read"
    assert PASSWORD not in docker("history", "--no-trunc", image)


def test_a_build_without_the_password_fails_at_a_private_index(index, tmp_path):
    address, refused = index
    source = write(
        tmp_path, {"requirements.txt": f"--index-url http://{address}/simple/\nacme-private\n", "server.py": PY_HTTP}
    )
    recipe = plan_build(Layout.read(source), BuildOptions())
    with pytest.raises(AssertionError, match=r"401|[Uu]nauthorized"), image_of(recipe.dockerfile, source):
        pass
    assert "/simple/acme-private/" in refused
