"""`mcpfleet doctor`: whether this machine and this project have what a deployment needs, before one is tried.

It asks the same APIs as the deployment, at the endpoints that Pulumi's Google provider takes from the environment, so
that the local cloud answers as Google does. What it could not ask, it says.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from mcpfleet.doctor import Line
from mcpfleet.system import run_program

COMMAND_SECONDS: Final = 30.0
REQUEST_SECONDS: Final = 20.0

APIS: Final = (
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "iam.googleapis.com",
    "run.googleapis.com",
    "serviceusage.googleapis.com",
)
# One permission stands for each role: the one without which `pulumi up` stops.
ROLES: Final = {
    "run.services.create": "roles/run.admin",
    "run.services.setIamPolicy": "roles/run.admin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.create": "roles/iam.serviceAccountAdmin",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "serviceusage.services.enable": "roles/serviceusage.serviceUsageAdmin",
}
# Constraints that stop what the fleet can ask for, and what they stop.
POLICIES: Final = {
    "iam.allowedPolicyMemberDomains": "invokers of other organizations, and allUsers, are refused",
    "run.allowedIngress": "some values of `ingress` are refused",
    "run.requireInvokerIam": "access: public is refused",
    "iam.disableServiceAccountCreation": "servers cannot have accounts of their own",
}
_LEAST: Final = {"pulumi": (3, 256), "docker": (20, 10)}
_ENGINE: Final = "|".join(
    f"{{{{.{fact}}}}}"
    for fact in ("ServerVersion", "OperatingSystem", "Architecture", "MemoryLimit", "PidsLimit", "SecurityOptions")
)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")

Run = Callable[[list[str]], "str | None"]


class Api(Protocol):
    """What asks a Google API."""

    def __call__(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Mapping[str, Any]]:
        """Ask; gives the status and the answer's JSON. Raises OSError where nothing answers."""
        ...


def tools(run: Run | None = None) -> list[Line]:
    """The programs that a deployment starts.

    Args:
        run: Runs a program; gives what it prints, or None where it is not there.
    """
    run = run or _run
    return [
        _tool("pulumi", run(["pulumi", "version"]), "https://www.pulumi.com/docs/install/"),
        *_engine(run(["docker", "info", "--format", _ENGINE])),
        _optional("gcloud", run(["gcloud", "version"])),
    ]


def _tool(name: str, said: str | None, where: str) -> Line:
    found = _VERSION.search(said or "")
    if found is None:
        return Line("bad", f"{name} is not there, or does not run", f"Install it: {where}")
    least = _LEAST[name]
    if (int(found[1]), int(found[2])) < least:
        wanted = ".".join(map(str, least))
        return Line("bad", f"{name} {found.group()} is older than {wanted}", f"Install a newer one: {where}")
    return Line("ok", f"{name} {found.group()}")


def _engine(said: str | None) -> list[Line]:
    """The Docker Engine that the docker command means: which it is, and what it lacks."""
    version, *facts = (said or "").strip().split("|")
    line = _tool("docker", version, "https://docs.docker.com/engine/install/ (and start it)")
    if line.kind != "ok" or len(facts) != 5:
        return [line]
    system, machine, memory, processes, security = facts
    lacks = [name for name, there in (("memory", memory), ("processes", processes)) if there == "false"]
    parts = [
        f"{line.text}: {system}, {machine}",
        *(["rootless"] if "name=rootless" in security else []),
        *([f"without limits of {' and '.join(lacks)}"] if lacks else []),
    ]
    lines = [Line("ok", ", ".join(parts))]
    if machine not in {"x86_64", "amd64"}:
        step = "See that it emulates linux/amd64: docker run --rm --platform linux/amd64 hello-world"
        lines.append(
            Line("warn", f"Cloud Run runs linux/amd64; an engine of {machine} builds for it by emulation", step)
        )
    return lines


def _optional(name: str, said: str | None) -> Line:
    found = _VERSION.search(said or "")
    return Line("ok", f"{name} {found.group()}") if found else Line("skip", f"{name} is not there; nothing needs it")


def project(name: str, api: Api, environ: Mapping[str, str]) -> list[Line]:
    """The project, as Google's APIs tell it.

    Args:
        name: Its id.
        api: Asks Google.
        environ: Names other endpoints than Google's, as Pulumi's provider reads them.
    """

    def at(key: str, default: str) -> str:
        return (environ.get(f"GOOGLE_{key}_CUSTOM_ENDPOINT") or default).rstrip("/")

    manager = at("RESOURCE_MANAGER", "https://cloudresourcemanager.googleapis.com/v1")
    billing = at("CLOUD_BILLING", "https://cloudbilling.googleapis.com/v1")
    usage = at("SERVICE_USAGE", "https://serviceusage.googleapis.com/v1")
    policy = at("ORG_POLICY", "" if manager.startswith("http://") else "https://orgpolicy.googleapis.com/v2")
    try:
        status, found = api("GET", f"{manager}/projects/{name}")
        if status != 200:
            step = f"Check its id, and that you may see it: gcloud projects describe {shlex.quote(name)}"
            return [Line("bad", f"the project {name} is not to be seen: {_message(status, found)}", step)]
        lines = [Line("ok", f"project {name} is {str(found.get('lifecycleState', 'there')).lower()}")]
        lines.append(_billing(name, *api("GET", f"{billing}/projects/{name}/billingInfo")))
        lines += [_enabled(name, one, *api("GET", f"{usage}/projects/{name}/services/{one}")) for one in APIS]
        asked = {"permissions": sorted(ROLES)}
        lines += _permissions(name, *api("POST", f"{manager}/projects/{name}:testIamPermissions", asked))
        if not policy:
            lines.append(Line("skip", "organization policies: this cloud has none"))
        for constraint, stops in POLICIES.items() if policy else ():
            url = f"{policy}/projects/{name}/policies/{constraint}:getEffectivePolicy"
            lines += _policy(constraint, stops, *api("GET", url))
    except OSError as error:
        return [Line("bad", f"Google's APIs cannot be reached: {error}", "Check the network and HTTPS_PROXY.")]
    return lines


def _billing(name: str, status: int, found: Mapping[str, Any]) -> Line:
    if status != 200:
        return Line("skip", f"billing: {_message(status, found)}")
    if found.get("billingEnabled"):
        return Line("ok", "billing is enabled")
    step = f"Link an account: gcloud billing projects link {shlex.quote(name)} --billing-account=ACCOUNT"
    return Line("bad", "billing is not enabled, so Cloud Run and the registry refuse everything", step)


def _enabled(name: str, api: str, status: int, found: Mapping[str, Any]) -> Line:
    if status != 200:
        return Line("skip", f"{api}: {_message(status, found)}")
    if found.get("state") == "ENABLED":
        return Line("ok", f"{api} is enabled")
    if api in {"serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com"}:
        step = f"gcloud services enable {api} --project={shlex.quote(name)}"
        return Line("bad", f"{api} is not enabled, and without it no other can be", step)
    return Line("ok", f"{api} is not enabled yet; `pulumi up` enables it")


def _permissions(name: str, status: int, found: Mapping[str, Any]) -> list[Line]:
    if status != 200:
        return [Line("skip", f"your roles: {_message(status, found)}")]
    held = cast("list[str]", found.get("permissions") or [])
    lines: list[Line] = []
    for role in dict.fromkeys(ROLES.values()):
        lacking = [one for one, its in ROLES.items() if its == role and one not in held]
        if lacking:
            step = f"gcloud projects add-iam-policy-binding {shlex.quote(name)} --member=user:YOU --role={role}"
            lines.append(Line("bad", f"you lack {', '.join(lacking)}, which {role} holds", step))
        else:
            lines.append(Line("ok", f"you have what {role} gives"))
    return lines


def _policy(constraint: str, stops: str, status: int, found: Mapping[str, Any]) -> list[Line]:
    if status != 200:
        return [Line("skip", f"organization policy {constraint}: {_message(status, found)}")]
    spec: Any = found.get("spec")
    rules: Any = cast("dict[str, Any]", spec).get("rules") if isinstance(spec, dict) else None
    for rule in cast("list[dict[str, Any]]", rules or []):
        if rule.get("enforce") or rule.get("denyAll") or rule.get("values"):
            step = "Ask whoever runs the organization for an exception, or do without."
            return [Line("warn", f"organization policy {constraint}: {stops}", step)]
    return []


def _message(status: int, found: Mapping[str, Any]) -> str:
    error: Any = found.get("error")
    told = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    return f"{status} {told or 'without a reason'}"


def _run(command: list[str]) -> str | None:
    try:
        done = run_program(command, COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
