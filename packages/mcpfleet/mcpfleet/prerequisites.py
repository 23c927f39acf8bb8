"""`mcpfleet doctor`: checks before a deployment whether this machine and the project have what it needs.

It calls the same APIs as the deployment, at the endpoints that Pulumi's Google provider reads from the environment, so
it works with the local cloud as with Google. It reports what it could not check.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from mcpfleet.doctor import CheckResult
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
# One permission for each role: the one without which `pulumi up` stops.
ROLES: Final = {
    "run.services.create": "roles/run.admin",
    "run.services.setIamPolicy": "roles/run.admin",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.create": "roles/iam.serviceAccountAdmin",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "serviceusage.services.enable": "roles/serviceusage.serviceUsageAdmin",
}
# Constraints that forbid something that a fleet can configure, with their effect.
POLICIES: Final = {
    "iam.allowedPolicyMemberDomains": "invokers of other organizations, and allUsers, are refused",
    "run.allowedIngress": "some values of `ingress` are refused",
    "run.requireInvokerIam": "access: public is refused",
    "iam.disableServiceAccountCreation": "servers cannot have accounts of their own",
}
_MINIMUM_VERSIONS: Final = {"pulumi": (3, 256), "docker": (20, 10)}
_DOCKER_INFO_FORMAT: Final = "|".join(
    f"{{{{.{fact}}}}}"
    for fact in ("ServerVersion", "OperatingSystem", "Architecture", "MemoryLimit", "PidsLimit", "SecurityOptions")
)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")

Run = Callable[[list[str]], "str | None"]


class Api(Protocol):
    """Calls a Google API."""

    def __call__(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Mapping[str, Any]]:
        """Send a request; returns the status and the JSON of the response. Raises OSError if there is no response."""
        ...


def check_programs(run: Run | None = None) -> list[CheckResult]:
    """Check the programs that a deployment starts.

    Args:
        run: Runs a program; returns its output, or None if it is not installed or fails.
    """
    run = run or _run
    return [
        _check_program("pulumi", run(["pulumi", "version"]), "https://www.pulumi.com/docs/install/"),
        *_check_docker_engine(run(["docker", "info", "--format", _DOCKER_INFO_FORMAT])),
        _check_optional_program("gcloud", run(["gcloud", "version"])),
    ]


def _check_program(name: str, output: str | None, url: str) -> CheckResult:
    version = _VERSION.search(output or "")
    if version is None:
        return CheckResult("bad", f"{name} is not installed, or does not run", f"Install it: {url}")
    minimum = _MINIMUM_VERSIONS[name]
    if (int(version[1]), int(version[2])) < minimum:
        minimum_text = ".".join(map(str, minimum))
        return CheckResult(
            "bad", f"{name} {version.group()} is older than {minimum_text}", f"Install a newer one: {url}"
        )
    return CheckResult("ok", f"{name} {version.group()}")


def _check_docker_engine(output: str | None) -> list[CheckResult]:
    """Check the Docker engine that the docker command uses, and the limits that it supports."""
    version, *facts = (output or "").strip().split("|")
    result = _check_program("docker", version, "https://docs.docker.com/engine/install/ (and start it)")
    if result.kind != "ok" or len(facts) != 5:
        return [result]
    system, machine, memory, processes, security = facts
    missing = [name for name, has_limit in (("memory", memory), ("processes", processes)) if has_limit == "false"]
    parts = [
        f"{result.text}: {system}, {machine}",
        *(["rootless"] if "name=rootless" in security else []),
        *([f"without limits of {' and '.join(missing)}"] if missing else []),
    ]
    results = [CheckResult("ok", ", ".join(parts))]
    if machine not in {"x86_64", "amd64"}:
        step = "Check that it emulates linux/amd64: docker run --rm --platform linux/amd64 hello-world"
        results.append(
            CheckResult("warn", f"Cloud Run runs linux/amd64; this engine ({machine}) builds for it by emulation", step)
        )
    return results


def _check_optional_program(name: str, output: str | None) -> CheckResult:
    version = _VERSION.search(output or "")
    return (
        CheckResult("ok", f"{name} {version.group()}")
        if version
        else CheckResult("skip", f"{name} is not installed; it is optional")
    )


def check_project(name: str, api: Api, environ: Mapping[str, str]) -> list[CheckResult]:
    """Check the project with Google's APIs.

    Args:
        name: The project's id.
        api: Calls the APIs.
        environ: The environment, which may name other endpoints, as for Pulumi's provider.
    """

    def endpoint(key: str, default: str) -> str:
        return (environ.get(f"GOOGLE_{key}_CUSTOM_ENDPOINT") or default).rstrip("/")

    manager = endpoint("RESOURCE_MANAGER", "https://cloudresourcemanager.googleapis.com/v1")
    billing = endpoint("CLOUD_BILLING", "https://cloudbilling.googleapis.com/v1")
    usage = endpoint("SERVICE_USAGE", "https://serviceusage.googleapis.com/v1")
    policy = endpoint("ORG_POLICY", "" if manager.startswith("http://") else "https://orgpolicy.googleapis.com/v2")
    try:
        status, body = api("GET", f"{manager}/projects/{name}")
        if status != 200:
            step = f"Check its id, and your access to it: gcloud projects describe {shlex.quote(name)}"
            return [CheckResult("bad", f"the project {name} cannot be read: {_error_text(status, body)}", step)]
        results = [CheckResult("ok", f"project {name} is {str(body.get('lifecycleState', 'active')).lower()}")]
        results.append(_check_billing(name, *api("GET", f"{billing}/projects/{name}/billingInfo")))
        results += [
            _check_api(name, service, *api("GET", f"{usage}/projects/{name}/services/{service}")) for service in APIS
        ]
        request = {"permissions": sorted(ROLES)}
        results += _check_roles(name, *api("POST", f"{manager}/projects/{name}:testIamPermissions", request))
        if not policy:
            results.append(CheckResult("skip", "organization policies: not checked; this cloud has none"))
        for constraint, effect in POLICIES.items() if policy else ():
            url = f"{policy}/projects/{name}/policies/{constraint}:getEffectivePolicy"
            results += _check_policy(constraint, effect, *api("GET", url))
    except OSError as error:
        return [CheckResult("bad", f"Google's APIs cannot be reached: {error}", "Check the network and HTTPS_PROXY.")]
    return results


def _check_billing(name: str, status: int, body: Mapping[str, Any]) -> CheckResult:
    if status != 200:
        return CheckResult("skip", f"billing: {_error_text(status, body)}")
    if body.get("billingEnabled"):
        return CheckResult("ok", "billing is enabled")
    step = f"Link an account: gcloud billing projects link {shlex.quote(name)} --billing-account=ACCOUNT"
    return CheckResult("bad", "billing is not enabled, so Cloud Run and Artifact Registry refuse all requests", step)


def _check_api(name: str, api: str, status: int, body: Mapping[str, Any]) -> CheckResult:
    if status != 200:
        return CheckResult("skip", f"{api}: {_error_text(status, body)}")
    if body.get("state") == "ENABLED":
        return CheckResult("ok", f"{api} is enabled")
    if api in {"serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com"}:
        step = f"gcloud services enable {api} --project={shlex.quote(name)}"
        return CheckResult("bad", f"{api} is not enabled, and the other APIs can't be enabled without it", step)
    return CheckResult("ok", f"{api} is not enabled yet; `pulumi up` enables it")


def _check_roles(name: str, status: int, body: Mapping[str, Any]) -> list[CheckResult]:
    if status != 200:
        return [CheckResult("skip", f"your roles: {_error_text(status, body)}")]
    granted = cast("list[str]", body.get("permissions") or [])
    results: list[CheckResult] = []
    for role in dict.fromkeys(ROLES.values()):
        missing = [
            permission
            for permission, permission_role in ROLES.items()
            if permission_role == role and permission not in granted
        ]
        if missing:
            step = f"gcloud projects add-iam-policy-binding {shlex.quote(name)} --member=user:YOU --role={role}"
            results.append(CheckResult("bad", f"you don't have the permission {', '.join(missing)} of {role}", step))
        else:
            results.append(CheckResult("ok", f"you have the permissions of {role}"))
    return results


def _check_policy(constraint: str, effect: str, status: int, body: Mapping[str, Any]) -> list[CheckResult]:
    if status != 200:
        return [CheckResult("skip", f"organization policy {constraint}: {_error_text(status, body)}")]
    spec: Any = body.get("spec")
    rules: Any = cast("dict[str, Any]", spec).get("rules") if isinstance(spec, dict) else None
    for rule in cast("list[dict[str, Any]]", rules or []):
        if rule.get("enforce") or rule.get("denyAll") or rule.get("values"):
            step = "Ask your organization's administrator for an exception, or change the config."
            return [CheckResult("warn", f"organization policy {constraint}: {effect}", step)]
    return []


def _error_text(status: int, body: Mapping[str, Any]) -> str:
    error: Any = body.get("error")
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
    return f"{status} {message or 'no reason given'}"


def _run(command: list[str]) -> str | None:
    try:
        done = run_program(command, COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
