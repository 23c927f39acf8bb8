"""The comparison program of `./dev bench fleet`: registers a fleet's resources by hand, without checks or components.

It is a loop over plain values, in the same resource tree. A test compares it with the fleet's program, resource by
resource.
"""

import json
from typing import Any, cast

import pulumi
import pulumi_gcp as gcp

APIS = ("artifactregistry", "iam", "iamcredentials", "run")


def deploy() -> None:
    """Register the resources for the fleet in the stack's config, which has only images and invokers."""
    project = pulumi.Config("gcp").require("project")
    fleet: dict[str, Any] = json.loads(pulumi.Config("mcpfleet").require("fleet"))
    region: str = fleet["region"]
    top = pulumi.ComponentResource("mcpfleet:index:Fleet", "fleet")
    shared = pulumi.ComponentResource("mcpfleet:index:Foundation", "fleet", opts=pulumi.ResourceOptions(parent=top))
    first = _api(project, "cloudresourcemanager", shared)
    apis = [first, *(_api(project, api, shared, first) for api in APIS)]
    after_apis = pulumi.ResourceOptions(parent=shared, depends_on=apis, delete_before_replace=True)
    number = gcp.organizations.get_project_output(
        project_id=project, opts=pulumi.InvokeOutputOptions(depends_on=apis)
    ).number
    gcp.artifactregistry.Repository(
        "fleet",
        project=project,
        location=region,
        repository_id="mcpfleet",
        format="DOCKER",
        description="Images of the MCP servers that mcpfleet builds",
        cleanup_policies=[
            {"id": "delete-untagged", "action": "DELETE", "condition": {"tag_state": "UNTAGGED"}},
            {"id": "keep-newest", "action": "KEEP", "most_recent_versions": {"keep_count": 10}},
        ],
        cleanup_policy_dry_run=False,
        opts=after_apis,
    )
    gcp.organizations.get_client_config_output()
    servers = cast("dict[str, dict[str, Any]]", fleet["servers"])
    pulumi.export(
        "servers", {name: _server(name, server, project, region, number, apis, top) for name, server in servers.items()}
    )


def _api(project: str, api: str, parent: pulumi.Resource, *after: pulumi.Resource) -> gcp.projects.Service:
    return gcp.projects.Service(
        f"fleet-{api}",
        project=project,
        service=f"{api}.googleapis.com",
        disable_on_destroy=False,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(after)),
    )


def _server(
    name: str,
    server: dict[str, Any],
    project: str,
    region: str,
    number: pulumi.Output[str],
    apis: list[gcp.projects.Service],
    top: pulumi.Resource,
) -> dict[str, Any]:
    group = pulumi.ComponentResource("mcpfleet:index:McpServer", name, opts=pulumi.ResourceOptions(parent=top))
    child = pulumi.ResourceOptions(parent=group, delete_before_replace=True)
    after_apis = pulumi.ResourceOptions(parent=group, depends_on=apis, delete_before_replace=True)
    account = gcp.serviceaccount.Account(
        name, project=project, account_id=f"mcp-{name}", display_name=f"MCP server {name}", opts=after_apis
    )
    url = number.apply(lambda project_number: f"https://mcp-{name}-{project_number}.{region}.run.app")
    port: int = server["source"]["port"]
    environment: dict[str, pulumi.Input[str]] = {
        "GOOGLE_CLOUD_PROJECT": project,
        "MCPFLEET_BASE_URL": url,
        "MCPFLEET_AUDIENCE": url,
        "MCPFLEET_PATH": "/mcp",
        "MCPFLEET_TRANSPORTS": "streamable-http",
        "MCPFLEET_STATELESS": "true",
        "MCPFLEET_ALLOWED_HOSTS": f"mcp-{name}-*.run.app",
        "FORWARDED_ALLOW_IPS": "*",
        "MCPFLEET_ACCESS": "iam",
    }
    service = gcp.cloudrunv2.Service(
        f"{name}-{region}",
        name=f"mcp-{name}",
        project=project,
        location=region,
        ingress="INGRESS_TRAFFIC_ALL",
        launch_stage="GA",
        deletion_protection=False,
        scaling={"min_instance_count": 0},
        template={
            "service_account": account.email,
            "timeout": "3600s",
            "max_instance_request_concurrency": 80,
            "scaling": {"max_instance_count": 3},
            "containers": [
                {
                    "image": server["source"]["image"],
                    "envs": [{"name": key, "value": value} for key, value in environment.items()],
                    "ports": {"container_port": port, "name": "http1"},
                    "resources": {
                        "limits": {"cpu": "1", "memory": "512Mi"},
                        "cpu_idle": True,
                        "startup_cpu_boost": True,
                    },
                    "startup_probe": {
                        "tcp_socket": {"port": port},
                        "period_seconds": 240,
                        "timeout_seconds": 240,
                        "failure_threshold": 1,
                    },
                }
            ],
        },
        opts=child,
    )
    for member in server["access"]["iam"]["invokers"]:
        gcp.cloudrunv2.ServiceIamMember(
            f"{name}-{region}-invoker-{member}",
            project=project,
            location=region,
            name=service.name,
            role="roles/run.invoker",
            member=member,
            opts=child,
        )
    invokers: list[str] = server["access"]["iam"]["invokers"]
    # The same outputs as the fleet's.
    return {
        "mcp_url": service.uri.apply(lambda uri: f"{uri}/mcp"),
        "service_url": service.uri,
        "urls": {region: service.uri},
        "audience": service.uri,
        "service": service.name,
        "region": region,
        "project": project,
        "access": "iam",
        "public_reason": None,
        "program_audience": None,
        "oauth": None,
        "ingress": "all",
        "reached": "proxy",
        "invokers": invokers,
        "transports": ["streamable-http"],
        "sessions": "stateless",
        "health_path": None,
        "domain": None,
        "address": None,
        "dns_records": None,
        "client_config": {"mcpServers": {name: {"type": "http", "url": "http://127.0.0.1:3000/mcp"}}},
        "proxy_command": f"gcloud run services proxy mcp-{name} --project {project} --region {region} --port 3000",
        "proxy_port": 3000,
    }
