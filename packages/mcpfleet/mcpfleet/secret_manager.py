"""`mcpfleet secrets`: stores values in Secret Manager, on Google and on the local cloud.

A value comes from standard input or from a prompt without echo, and goes to Secret Manager only. It is never in an
argument, a log line, a message or a `repr`.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, Any, Final, cast

from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.google_sources import GOOGLE_UNIVERSE, LOGIN
from mcpfleet.inert import inert
from mcpfleet.net import is_loopback, parse_host
from mcpfleet.prerequisites import Api
from mcpfleet.projects import NotInstalledError, Projects, find_projects

MAX_VALUE_BYTES: Final = 64 << 10
"""The largest value that Secret Manager stores (cloud.google.com/secret-manager/quotas)."""
CLOUDS: Final = "mcpfleet.clouds"
"""The group of entry points that connect to clouds other than Google's, each named after its universe domain."""

_API: Final = "secretmanager.googleapis.com"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_PROJECT: Final = re.compile(r"[a-z0-9.:-]{1,63}")
_VERSION_NAME: Final = re.compile(r"projects/[^/]+/secrets/[^/]+/versions/([1-9][0-9]{0,18})")
_OPERATION: Final = re.compile(r"operations/[A-Za-z0-9._-]{1,200}")
_RESERVED_VARIABLE: Final = re.compile(r"[0-9].*|PORT|(K|X_GOOGLE|MCP|MCPFLEET|GOOGLE|CLOUD_RUN|FASTMCP)_.*")
_ENABLING_TRIES: Final = 24
_ENABLING_SECONDS: Final = 5.0
"""Seconds between two looks at an API that is being enabled. Google says that it takes some minutes at most."""
_REASON_CHARACTERS: Final = 300

Connect = Callable[[Path, str], Mapping[str, str]]
"""Connects to another cloud: from the folder of Pulumi.yaml and the stack, the variables with its endpoints and
credentials, as Pulumi's Google provider reads them. Raises McpfleetError."""


@dataclass(frozen=True)
class SecretLocation:
    """Where the secrets of a stack are.

    Attributes:
        project: The id of the project.
        universe: The universe domain of the cloud: Google's, or the local cloud's.
        labels: The labels of new secrets: those of the fleet's resources.
    """

    project: str
    universe: str = GOOGLE_UNIVERSE
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class SecretValue:
    """The value of a secret.

    Attributes:
        data: Its bytes.
        lost_newline: Whether a newline at its end was removed.
    """

    data: bytes = field(repr=False)
    lost_newline: bool = False

    @property
    def is_text(self) -> bool:
        """Whether an environment variable can hold it."""
        try:
            return "\0" not in self.data.decode()
        except UnicodeDecodeError:
            return False


@dataclass(frozen=True)
class SecretVersion:
    """A version that was stored.

    Attributes:
        number: Its number.
        is_new_secret: Whether the secret was created for it.
        enabled_api: Whether the API was enabled for it.
    """

    number: str
    is_new_secret: bool
    enabled_api: bool


def check_name(name: str) -> None:
    """Check the name of a secret.

    Raises:
        UsageError: It is not one. The message does not have it: some people write `NAME=VALUE`.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "NAME is not the name of a secret. A name has 1 to 255 letters, digits, _ and -, and nothing else; the"
            " value comes from standard input."
        )


def read_value(stream: IO[bytes], *, is_raw: bool = False) -> SecretValue:
    """Read a value from a stream to its end.

    A newline at the end of a single line of text is removed, since `echo` and most editors write one. Other values are
    stored as they are.

    Args:
        stream: The stream.
        is_raw: Keep that newline.

    Raises:
        UsageError: The value is empty or too large.
    """
    data = stream.read(MAX_VALUE_BYTES + 3)
    line = data.removesuffix(b"\n").removesuffix(b"\r") if data.endswith(b"\n") else data
    is_line = line != data and b"\n" not in line and SecretValue(line).is_text
    value = SecretValue(line, lost_newline=True) if is_line and not is_raw else SecretValue(data)
    if not value.data:
        raise UsageError("Standard input is empty, so there is no value. Nothing was stored.")
    if len(value.data) > MAX_VALUE_BYTES:
        raise UsageError(f"The value has more than {MAX_VALUE_BYTES >> 10} KiB, the limit of Secret Manager.")
    return value


def ask_value(name: str, ask: Callable[[str], str]) -> SecretValue:
    """Ask for a value on the terminal, twice.

    Args:
        name: The secret's name.
        ask: Asks without echo.

    Raises:
        UsageError: The value is empty, or the two differ.
    """
    text = ask(f"Value of {name} (not shown): ")
    if not text:
        raise UsageError("The value is empty. Nothing was stored.")
    if ask("The same again: ") != text:
        raise UsageError("The two values differ. Nothing was stored.")
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > MAX_VALUE_BYTES:
        raise UsageError(f"The value has more than {MAX_VALUE_BYTES >> 10} KiB, the limit of Secret Manager.")
    return SecretValue(data)


def find_location(
    root: Path, stack: str | None, project: str | None, projects: Projects | None = None
) -> SecretLocation:
    """Find the project that holds the secrets of a stack.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The stack; None: *project* is on Google, and belongs to no stack.
        project: A project to use instead of the stack's.
        projects: Reads fleets; by default what is installed.

    Raises:
        UsageError: Neither is given, or the stack's file names no project.
        NotInstalledError: Nothing here can read the stack's file.
    """
    if project is not None and not _PROJECT.fullmatch(project):
        raise UsageError(f"--project {inert(project)!r} is not the id of a project.")
    if stack is None:
        if project is None:
            raise UsageError("Name the stack whose servers read the secret: --stack STACK. Or a project: --project.")
        return SecretLocation(project)
    projects = projects or find_projects()
    if projects is None:
        raise NotInstalledError(
            "Nothing here can read a stack's file: pulumi-mcpfleet is not installed beside this command. Type"
            " `uv run mcpfleet secrets …` in the project's folder, or name the project alone: --project."
        )
    try:
        location = projects.read_location(root, stack)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not _PROJECT.fullmatch(project or location.project):
        raise UsageError(f"Pulumi.{stack}.yaml: gcp:project is not the id of a project. Correct it.")
    return SecretLocation(project or location.project, location.universe, location.labels)


def connect(
    root: Path,
    stack: str | None,
    location: SecretLocation,
    environ: Mapping[str, str],
    clouds: Iterable[EntryPoint] | None = None,
) -> tuple[Mapping[str, str], Path | None]:
    """Return the variables with the endpoints of the stack's cloud, and the key to call it with (None: the default).

    A stack of Google never goes to an endpoint of this machine, nor one of the local cloud to Google.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The stack.
        location: Where it is.
        environ: The environment.
        clouds: The entry points of other clouds; by default those that are installed.

    Raises:
        McpfleetError: The cloud can't be reached from here.
    """
    universe = location.universe
    if stack is not None and universe != GOOGLE_UNIVERSE:
        for point in _registered_clouds() if clouds is None else clouds:
            if point.name == universe:
                variables = cast("Connect", point.load())(root, stack)
                return variables, Path(variables["GOOGLE_APPLICATION_CREDENTIALS"])
        if universe.endswith(".test"):  # reserved for tests (RFC 6761), so it is no cloud of Google's
            raise NotInstalledError(
                f"The stack {stack} is deployed to the local cloud, and mcpfleet-local-cloud is not installed here."
                " Type `uv run mcpfleet secrets …` in the project's folder."
            )
    for name in ("GOOGLE_SECRET_MANAGER_CUSTOM_ENDPOINT", "GOOGLE_SERVICE_USAGE_CUSTOM_ENDPOINT"):
        endpoint = environ.get(name, "")
        if endpoint and (is_loopback(parse_host(endpoint)) or not endpoint.startswith("https://")):
            raise UsageError(
                f"{name} is {inert(endpoint)}, which is not Google, and {location.project} is a project of Google."
                " Nothing was sent. Use a shell without that variable."
            )
    return environ, None


class SecretManager:
    """Secret Manager in one project.

    Args:
        api: Calls the APIs.
        location: The project, and the labels of new secrets.
        environ: The environment, which may name other endpoints, as for Pulumi's provider.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        api: Api,
        location: SecretLocation,
        environ: Mapping[str, str],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api = api
        self._location = location
        self._sleep = sleep
        self._url = _endpoint(environ, "SECRET_MANAGER", f"https://secretmanager.{location.universe}/v1")
        self._usage_url = _endpoint(environ, "SERVICE_USAGE", f"https://serviceusage.{location.universe}/v1")

    def add_version(self, name: str, value: SecretValue) -> SecretVersion:
        """Store a value as the newest version of a secret; create the secret if there is none.

        Raises:
            McpfleetError: It was not stored; the message has the next step.
        """
        project = self._location.project
        payload = {"payload": {"data": base64.b64encode(value.data).decode()}}
        path = f"projects/{project}/secrets/{name}:addVersion"
        is_enabled = is_new_secret = False
        status, body = self._call("POST", path, payload)
        if _is_disabled(status, body):
            self._enable()
            is_enabled = True
            for _ in range(_ENABLING_TRIES):
                status, body = self._call("POST", path, payload)
                if not _is_disabled(status, body):
                    break
                self._sleep(_ENABLING_SECONDS)
        if status == 404:
            is_new_secret = self._create(name)
            status, body = self._call("POST", path, payload)
        if status != 200:
            raise McpfleetError(
                f"The value was not stored: {_reason(status, body, value)}. {_step_to_add(status, project, name)}"
            )
        number = _VERSION_NAME.fullmatch(str(body.get("name", "")))
        if number is None:
            raise McpfleetError(
                "Secret Manager's response names no version, so it is not known whether the value was stored. Look"
                f" with: gcloud secrets versions list {name} --project={project}"
            )
        return SecretVersion(number[1], is_new_secret, is_enabled)

    def _create(self, name: str) -> bool:
        """Create a secret; return False if another program has created it in the meantime."""
        project = self._location.project
        # Google's default: Secret Manager chooses where the value is kept.
        body: dict[str, Any] = {"replication": {"automatic": {}}}
        if self._location.labels:
            body["labels"] = dict(self._location.labels)
        status, response = self._call("POST", f"projects/{project}/secrets?secretId={name}", body)
        if status in {200, 409}:
            return status == 200
        step = f"Create it yourself (gcloud secrets create {name} --project={project}), then run this again."
        if status == 403:
            step = (
                "You need the permission secretmanager.secrets.create, which roles/secretmanager.admin has: gcloud"
                f" projects add-iam-policy-binding {project} --member=user:YOU --role=roles/secretmanager.admin."
                " Or have somebody create the secret."
            )
        elif "resourceLocations" in str(response):
            step = (
                "Your organization allows certain regions only: gcloud secrets create"
                f" {name} --project={project} --replication-policy=user-managed --locations=REGION. Then run this"
                " again."
            )
        raise McpfleetError(f"The secret {name} was not created: {_reason(status, response)}. {step}")

    def _enable(self) -> None:
        """Enable the API, and wait until that is done."""
        project = self._location.project
        command = f"gcloud services enable {_API} --project={project}"
        status, body = self._send("POST", f"{self._usage_url}/projects/{project}/services/{_API}:enable", {})
        for _ in range(_ENABLING_TRIES):
            name = str(body.get("name", ""))
            if status != 200 or body.get("done") or not _OPERATION.fullmatch(name):
                break
            self._sleep(_ENABLING_SECONDS)
            status, body = self._send("GET", f"{self._usage_url}/{name}", None)
        if status != 200 or body.get("error"):
            raise McpfleetError(
                f"{_API} is not enabled in the project {project}, and enabling it failed: {_reason(status, body)}. You"
                f" need roles/serviceusage.serviceUsageAdmin, or somebody who types: {command}"
            )

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Mapping[str, Any]]:
        return self._send(method, f"{self._url}/{path}", body)

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None) -> tuple[int, Mapping[str, Any]]:
        try:
            return self._api(method, url, body)
        except OSError as error:
            raise McpfleetError(
                f"{parse_host(url)} gave no response ({error}), so it is not known whether the value was stored. Check"
                " the network and HTTPS_PROXY, then run this again."
            ) from None


def fleet_line(name: str, version: str, value: SecretValue) -> str:
    """The line of a fleet that gives a version to a server, as a variable, or as a file if it is not text."""
    variable = re.sub(r"[^A-Z0-9_]", "_", name.upper())
    if _RESERVED_VARIABLE.fullmatch(variable):
        variable = f"SECRET_{variable}"
    key = variable if value.is_text else f"/secrets/{name}"
    # Quoted: YAML reads a name such as 0123 or no as something else than a text.
    text = name if re.fullmatch(r"[a-z][a-z0-9-]*[0-9-][a-z0-9-]*", name) else f'"{name}"'
    return f'secrets: {{{key}: {{secret: {text}, version: "{version}"}}}}'


def _endpoint(environ: Mapping[str, str], api: str, default: str) -> str:
    return (environ.get(f"GOOGLE_{api}_CUSTOM_ENDPOINT") or default).rstrip("/")


def _registered_clouds() -> list[EntryPoint]:
    group = {"group": CLOUDS}
    return [*cast("Iterable[EntryPoint]", entry_points(**group))]


def _is_disabled(status: int, body: Mapping[str, Any]) -> bool:
    """Whether a response says that the project has the API disabled (google.rpc.ErrorInfo)."""
    error: Any = body.get("error")
    details: Any = cast("dict[str, Any]", error).get("details") if isinstance(error, dict) else None
    reasons = [
        cast("dict[str, Any]", detail).get("reason")
        for detail in (cast("list[object]", details) if isinstance(details, list) else ())
        if isinstance(detail, dict)
    ]
    return status == 403 and "SERVICE_DISABLED" in reasons


def _reason(status: int, body: Mapping[str, Any], value: SecretValue | None = None) -> str:
    """The reason of a refusal, on one line; without the value, if the response repeats it."""
    error: Any = body.get("error")
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    text = str(message or "no reason given")
    if value is not None and _repeats(text, value):
        text = "the reason repeats the value, so it is not shown"
    return f"{status} {inert(text, _REASON_CHARACTERS).rstrip('.')}"


def _repeats(text: str, value: SecretValue) -> bool:
    encoded = base64.b64encode(value.data).decode()
    parts = [encoded[:8], encoded.replace("+", "-").replace("/", "_")[:8]]
    return any(part in text for part in parts) or value.data.decode("utf-8", "replace")[:8] in text


def _step_to_add(status: int, project: str, name: str) -> str:
    role = "roles/secretmanager.secretVersionAdder"
    if status == 401:
        return f"Log in: {LOGIN}."
    if status == 403:
        return (
            f"You need {role} on the secret: gcloud secrets add-iam-policy-binding {name} --project={project}"
            f" --member=user:YOU --role={role}. If there is no such secret yet, you need roles/secretmanager.admin on"
            " the project."
        )
    if status == 429 or status >= 500:
        return "Try again."
    return "Correct that, then run this again."
