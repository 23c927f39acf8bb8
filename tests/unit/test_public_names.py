"""Names that users have in their files, their programs and their state: none goes without a note in CHANGELOG.md.

Adding one is free. To remove or rename one, say in CHANGELOG.md what users have to do, then change it here. Type tokens
are pinned in tests/unit/infra/test_type_tokens.py.
"""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import pulumi_mcpfleet
from pulumi_mcpfleet import environment, outputs, tokens
from pulumi_mcpfleet.fleet.model import Fleet
from pulumi_mcpfleet.provider import schema

ROOT = Path(__file__).parents[2]
FLEET_KEYS = {
    "Build": ("args build build_args builder port target"),
    "Client": (
        "access annotations binary_authorization calls cloudsql_instances concurrency cpu cpu_throttling "
        "deletion_protection description encryption_key env gpu gpu_zonal_redundancy health_path labels "
        "max_instances memory roles secrets service_name session_affinity source timeout topology use_http2 "
        "volumes vpc"
    ),
    "CloudBuildOptions": ("machine_type timeout"),
    "ExistingImage": ("args command image port"),
    "Fleet": (
        "clients cloud_build labels load_balancer new_regions organization platform profile region regions "
        "registry servers"
    ),
    "Folder": (
        "apt apt_build args before bounds build_args build_secrets builder copy_from dockerfile extras folder "
        "groups installer language lfs package port speaks start target writable"
    ),
    "Gcs": ("bucket read_only"),
    "GcsVolume": ("gcs mount"),
    "Git": (
        "apt apt_build args before bounds build_args build_secrets builder copy_from dockerfile extras git "
        "groups installer language package port speaks start target writable"
    ),
    "GitRepository": ("dir lfs ref submodules token url"),
    "Grpc": ("service"),
    "Iam": ("invokers"),
    "IamAccess": ("iam"),
    "Iap": ("members oauth_client programmatic_clients"),
    "IapAccess": ("iap"),
    "ImageFile": ("image path"),
    "InMemory": ("memory mount"),
    "Item": ("mode version"),
    "Nfs": ("path read_only server"),
    "NfsVolume": ("mount nfs"),
    "Oauth": ("audience issuer scopes"),
    "OauthAccess": ("oauth"),
    "OauthClient": ("client_id secret version"),
    "OnDisk": ("disk mount"),
    "PowerfulRole": ("reason role"),
    "Probe": ("failures grpc initial_delay path period port timeout"),
    "Probes": ("liveness readiness restart startup"),
    "Public": ("reason"),
    "PublicAccess": ("public"),
    "Registered": ("args build_args builder registry registry_url"),
    "Registry": ("dry_run keep remote repository"),
    "SecretRef": ("secret version"),
    "SecretVolume": ("file items mode mount secret version"),
    "Server": (
        "access agent_registry allowed_origins annotations audiences binary_authorization cloudsql_instances "
        "concurrency cpu cpu_throttling default_url deletion_protection depends_on description domain "
        "domain_path encryption_key env execution_environment gpu gpu_zonal_redundancy health_path ingress "
        "labels max_instances memory min_instances path probes roles secrets service_account service_name "
        "session_affinity sessions sidecars source startup_boost timeout transports use_http2 volumes vpc"
    ),
    "Sidecar": ("args command cpu depends_on env image memory mounts secrets startup"),
    "Stdio": ("build_args builder stdio"),
    "StdioServer": (
        "apt apt_build args before bounds command copy_from image install_scripts npm overrides pypi writable"
    ),
    "Vpc": ("all_traffic connector network subnetwork tags"),
}
"""The keys of a fleet's config, by the part that has them."""

ENVIRONMENT = (
    "GOOGLE_CLOUD_PROJECT MCPFLEET_ACCESS MCPFLEET_ALLOWED_HOSTS MCPFLEET_ALLOWED_ORIGINS MCPFLEET_AUDIENCE "
    "MCPFLEET_BASE_URL MCPFLEET_HEALTH_PATH MCPFLEET_IAP_AUDIENCE MCPFLEET_OAUTH_AUDIENCE "
    "MCPFLEET_OAUTH_ISSUER MCPFLEET_OAUTH_SCOPES MCPFLEET_PATH MCPFLEET_STATELESS MCPFLEET_TRANSPORTS"
)
"""What a server's container finds."""

SERVER_OUTPUTS = (
    "access address audience client_config dns_records domain health_path ingress invokers mcp_url oauth "
    "program_audience project proxy_command proxy_port public_reason reached region service service_url "
    "sessions transports urls"
)
CLIENT_OUTPUTS = (
    "access account calls health_path invokers program_audience project public_reason region service topology url"
)
"""What `pulumi stack output --json` has of each server and client."""

COMPONENT_OUTPUTS = "account address audience backend_service dns_records mcp_url service url urls"

TOKENS = "mcpfleet:index:Fleet mcpfleet:index:McpServer mcpfleet:index:McpClient mcpfleet:index:Foundation"

IMPORTS = {
    "pulumi_mcpfleet": "Fleet FleetArgs Foundation FoundationArgs McpClient McpClientArgs McpServer McpServerArgs",
    "mcpfleet.auth": "IdTokenAuth",
    "mcpfleet.service": "HttpClients servers_of",
    "mcpfleet_server": "serve",
    "mcpfleet_server.caller": "CallerMiddleware current_caller",
}
"""What the guides tell people to import."""

SCRIPTS = "mcpfleet mcpfleet-bridge mcpfleet-local-cloud pulumi-resource-mcpfleet pulumi-resource-mcpfleet-build"
ENTRY_POINTS = "mcpfleet.commands mcpfleet.packages mcpfleet.projects"


def missing(names, present):
    return set(names.split()) - set(present)


def projects():
    """The tables `project` of all our distributions."""
    files = [ROOT / "infra", ROOT / "local_cloud", *sorted((ROOT / "packages").iterdir())]
    return [tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"] for folder in files]


@pytest.mark.parametrize("part", FLEET_KEYS)
def test_a_key_of_a_fleet_stays(part):
    whole = Fleet.model_json_schema()
    parts = {**whole["$defs"], "Fleet": whole}
    assert missing(FLEET_KEYS[part], parts[part]["properties"]) == set()


def test_a_variable_of_the_container_stays():
    assert missing(ENVIRONMENT, {environment.PROJECT, *environment.INJECTED}) == set()


def test_an_output_stays():
    assert missing(SERVER_OUTPUTS, outputs.ServerOutput.__annotations__) == set()
    assert missing(CLIENT_OUTPUTS, outputs.ClientOutput.__annotations__) == set()
    assert missing(COMPONENT_OUTPUTS, schema.SERVER_OUTPUTS) == set()


def test_a_component_stays_under_its_token():
    assert missing(TOKENS, [value for value in vars(tokens).values() if isinstance(value, str)]) == set()
    package = schema.package()
    assert {"mcpfleet:index:Fleet", "mcpfleet:index:McpServer"} <= set(package["resources"])


@pytest.mark.parametrize("module", IMPORTS)
def test_an_import_stays(module):
    assert [name for name in IMPORTS[module].split() if not hasattr(importlib.import_module(module), name)] == []


def test_every_name_that_the_package_offers_is_pinned_here():
    assert set(pulumi_mcpfleet.__all__) == set(IMPORTS["pulumi_mcpfleet"].split())


def test_every_import_that_a_guide_shows_is_pinned_here():
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
    shown = [
        (module, name)
        for page in pages
        for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for module, names in re.findall(r"^from ((?:pulumi_)?mcpfleet[\w.]*) import ([\w, ]+)$", code, re.MULTILINE)
        for name in names.split(", ")
    ]
    assert shown
    assert [(module, name) for module, name in shown if name not in IMPORTS.get(module, "").split()] == []


def test_a_console_script_and_an_entry_point_group_stay():
    scripts = [name for project in projects() for name in project.get("scripts", {})]
    groups = [name for project in projects() for name in project.get("entry-points", {})]
    assert missing(SCRIPTS, scripts) == set()
    assert missing(ENTRY_POINTS, groups) == set()
