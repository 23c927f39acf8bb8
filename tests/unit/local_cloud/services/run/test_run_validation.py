"""Tests of refused requests, with the messages of Google's front end, of Cloud Run, or of the local cloud."""

import json
from typing import Any

import pytest

from mcpfleet_local_cloud.rest.errors import GoogleError
from mcpfleet_local_cloud.rest.message_parser import parse_body
from mcpfleet_local_cloud.rest.schemas import load_api
from mcpfleet_local_cloud.services.run import defaults, unsupported, validation
from mcpfleet_local_cloud.services.run.quantities import parse_quantity
from mcpfleet_local_cloud.services.run.workload import build_workload, instance_bounds

CREATE = load_api("run.v2").methods["POST /run/v2/projects/{project}/locations/{location}/services"]
IMAGE = "docker.io/acme/hello"


def service(template: Any = None, container: Any = None, **extra: Any) -> dict[str, Any]:
    return {"template": {"containers": [{"image": IMAGE, **(container or {})}], **(template or {})}, **extra}


def limits(cpu_idle: bool = True, **amounts: str) -> dict[str, Any]:
    return {"resources": {"cpuIdle": cpu_idle, "limits": amounts}}


def containers(*settings: Any) -> dict[str, Any]:
    return {"template": {"containers": [{"image": IMAGE, **setting} for setting in settings]}}


def refusal_of(body: Any) -> GoogleError:
    """Return the error of `create` for *body*."""
    with pytest.raises(GoogleError) as refused:
        check(body)
    return refused.value


def check(body: Any) -> dict[str, Any]:
    """*body* as it is read, found good."""
    parsed = parse_body(json.dumps(body).encode(), CREATE)
    validation.check("CreateServiceRequest", "hello", parsed, frozenset({"127.0.0.1:8470"}))
    unsupported.check(parsed)
    return parsed


WIRE = [
    ([], 'Unknown name "": Root element must be a message.'),
    ({"xyz": 1}, "Invalid JSON payload received. Unknown name \"xyz\" at 'service': Cannot find field."),
    (service(container={"imge": "x"}), "Unknown name \"imge\" at 'service.template.containers[0]': Cannot find field."),
    ({"labels": "x"}, "Invalid value at 'service.labels'"),
    ({"labels": {"a": 1}}, "Invalid value at 'service.labels[0].value' (TYPE_STRING), 1"),
    ({"description": 3}, "Invalid value at 'service.description' (TYPE_STRING), 3"),
    ({"description": ["x"]}, "Proto field is not repeating, cannot start list."),
    ({"description": "\ud800"}, "Invalid JSON payload received. Unexpected token."),
    ({"invokerIamDisabled": "yes"}, "'service.invoker_iam_disabled' (TYPE_BOOL), \"yes\""),
    ({"template": "x"}, "'service.template' (type.googleapis.com/google.cloud.run.v2.RevisionTemplate), \"x\""),
    (service(container={"args": "x"}), "'service.template.containers[0].args' (TYPE_STRING)"),
    (service(container={"args": [None]}), "'service.template.containers[0].args[0]' (TYPE_STRING), null"),
    (
        service({"maxInstanceRequestConcurrency": "x"}),
        "'service.template.max_instance_request_concurrency' (TYPE_INT32)",
    ),
    (service({"maxInstanceRequestConcurrency": 2**31}), "(TYPE_INT32), 2147483648"),
    (service({"maxInstanceRequestConcurrency": 1.5}), "(TYPE_INT32), 1.5"),
    (service({"maxInstanceRequestConcurrency": True}), "(TYPE_INT32), true"),
    (service({"timeout": "5m"}), "Illegal duration format"),
    (service({"timeout": 5}), "Illegal duration format"),
    (service({"executionEnvironment": "GEN3"}), 'google.cloud.run.v2.ExecutionEnvironment), "GEN3"'),
    (service(container={"startupProbe": {"httpGet": {}, "tcpSocket": {}}}), "oneof field 'probe_type' is already set"),
]


@pytest.mark.parametrize(("body", "text"), WIRE, ids=[text for _, text in WIRE])
def test_json_that_is_no_service_is_refused_as_by_google(body: Any, text: str):
    refusal = refusal_of(body)
    assert (refusal.status, text in refusal.message) == ("INVALID_ARGUMENT", True), refusal.message


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"description": NaN}', b"9" * 5000])
def test_invalid_json_is_one_message(content: bytes):
    with pytest.raises(GoogleError, match="Invalid JSON payload received"):
        parse_body(content, CREATE)


def test_every_mistake_is_reported_at_once():
    message = refusal_of({"xyz": 1, "description": 3}).message
    assert len(message.splitlines()) == 2
    message = refusal_of(service({"timeout": "4000s", "maxInstanceRequestConcurrency": 2000})).message
    assert len(message.splitlines()) == 2


def test_protobufs_alternative_spellings_are_accepted():
    given_body = {
        "template": {
            "max_instance_request_concurrency": "7",
            "timeout": None,
            "execution_environment": 2,
            "containers": [{"image": IMAGE, "livenessProbe": None}],
        },
        "generation": 5,
        "conditions": "whatever: output only",
        "traffic": [{"percent": 100.0}],
    }
    assert parse_body(json.dumps(given_body).encode(), CREATE) == {
        "template": {
            "maxInstanceRequestConcurrency": 7,
            "executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2",
            "containers": [{"image": IMAGE}],
        },
        "traffic": [{"percent": 100}],
    }
    assert parse_body(b"", CREATE) == {}


# The fragments of docs/google-apis.md 3.1 and of the conformance tables that it cites.
GOOGLES = [
    (service(container={"ports": [{}, {}]}), "ports should contain 0 or 1 port"),
    (containers({}, {}), "Revision template should contain exactly one container with an exposed port"),
    (
        containers({"ports": [{}]}, {"ports": [{}]}),
        "Revision template should contain exactly one container with an exposed",
    ),
    (containers(*({"ports": [{}]} if n == 0 else {} for n in range(11))), "at most 10 containers"),
    ({"template": {}}, "must contain at least one container"),
    ({}, "Violation in CreateServiceRequest.service.template: should be set."),
    (service(container={"env": [{"name": f"E{n}"} for n in range(1001)]}), "limit on EnvVars across all containers"),
    (service(container={"args": ["x"] * 1001}), "limit on args across all containers"),
    (
        service(container={"env": [{"name": "PORT", "value": "1"}]}),
        "The following reserved env names were provided: PORT.",
    ),
    (
        containers({"ports": [{}], "env": [{"name": "PORT", "value": "1"}]}, {}),
        "The following reserved env names were provided: PORT.",
    ),
    (containers({"ports": [{}]}, {"env": [{"name": "K_REVISION"}]}), "reserved env names were provided: K_REVISION"),
    (service(container={"env": [{"name": "K_SERVICE"}]}), "reserved env names were provided: K_SERVICE"),
    (service(container={"env": [{"name": "PORT"}]}), "These values are automatically set by the system."),
    (service(container={"env": [{"name": "A", "value": "ü" * 20000}]}), "length cannot exceed 32768"),
    (service(container={"env": [{"name": "A\0"}]}), "env[0].name"),
    (service(container={"args": ["\0"]}), "must not contain a NUL"),
    (service(container={"ports": [{"name": "http2"}]}), "must be one of empty, 'http1' or 'h2c'"),
    (service(container={"ports": [{"containerPort": 70000}]}), "container_port: must be 0"),
    (service(container={"image": ""}), "must provide an image name to deploy"),
    (service(container={"image": "a b"}), "must be a container image path"),
    (service(container={"image": f"{IMAGE}@sha256:12"}), "must be a container image path"),
    (
        service(container={"image": "ghcr.io/acme/x"}),
        "where host is one of [region.]gcr.io, [region-]docker.pkg.dev or",
    ),
    (service(container={"image": "127.0.0.1:9999/x/y"}), "must be a container image path"),
    (service(container={"dependsOn": ["db"]}), "does not exist"),
    (
        containers({"ports": [{}], "name": "a", "dependsOn": ["b"]}, {"name": "b", "dependsOn": ["a"]}),
        "dependency cycle detected",
    ),
    (containers({"ports": [{}], "name": "a"}, {"name": "a"}), "duplicate container names"),
    (service(container={"name": "A_b"}), "must conform to RFC 1123"),
    (service(container={"startupProbe": {}}), "Exactly one probe action must be set"),
    (service(container={"livenessProbe": {"tcpSocket": {"port": 1}}}), "does not support TCP socket in liveness probe"),
    (service(container={"readinessProbe": {"tcpSocket": {}}}), "does not support TCP socket in readiness probe"),
    (
        service(container={"readinessProbe": {"httpGet": {}, "initialDelaySeconds": 1}}),
        "Initial delay is not supported for readiness probe",
    ),
    (
        service(container={"startupProbe": {"httpGet": {}, "initialDelaySeconds": 241}}),
        "initial_delay_seconds must be a number between 0 and 240",
    ),
    (
        service(container={"startupProbe": {"httpGet": {}, "periodSeconds": 241}}),
        "period_seconds must be a number between 0 and 240",
    ),
    (
        service(container={"livenessProbe": {"httpGet": {}, "periodSeconds": 3601}}),
        "period_seconds must be a number between 0 and 3600",
    ),
    (
        service(container={"startupProbe": {"httpGet": {}, "failureThreshold": -1}}),
        "Must be a positive number if set",
    ),
    (
        service(container={"startupProbe": {"httpGet": {"port": 70000}}}),
        "if specified, must be between 1 and 65535",
    ),
    (
        service(container={"startupProbe": {"httpGet": {"httpHeaders": [{"name": "a b"}]}}}),
        "a valid HTTP header must consist of alphanumeric characters",
    ),
    (service(container={"startupProbe": {"httpGet": {"path": "x y"}}}), "must be an absolute path"),
    (
        service(container={"startupProbe": {"httpGet": {}, "periodSeconds": 25, "failureThreshold": 10}}),
        "startup_probe: failure_threshold * period_seconds is 250 seconds and must not exceed 240 seconds.",
    ),
    (
        service(container={"startupProbe": {"httpGet": {}, "timeoutSeconds": 11}}),
        "startup_probe.timeout_seconds: must be less than period_seconds.",
    ),
    (
        service(container={"livenessProbe": {"httpGet": {}, "timeoutSeconds": 10}}),
        "liveness_probe.timeout_seconds: must be less than period_seconds.",
    ),
    (
        service(container={"readinessProbe": {"httpGet": {}, "periodSeconds": 2, "timeoutSeconds": 2}}),
        "readiness_probe.timeout_seconds: must be less than period_seconds.",
    ),
    (
        service({"maxInstanceRequestConcurrency": 1001}),
        "max_instance_request_concurrency: Must be a number between 0 and 1000",
    ),
    (service({"timeout": "3601s"}), "maximum allowed time is one hour"),
    (service({"timeout": "-1s"}), "timeout: must not be negative"),
    (service({"scaling": {"minInstanceCount": -1}}), "must be greater than or equal to zero"),
    (
        service({"scaling": {"minInstanceCount": 3, "maxInstanceCount": 2}}),
        "must be greater than or equal to min_instance",
    ),
    (
        service(scaling={"minInstanceCount": 3, "maxInstanceCount": 2}),
        "must be greater than or equal to min_instance_count",
    ),
    (service(scaling={"manualInstanceCount": 2}), "scaling mode must be set to MANUAL"),
    (service(traffic=[{"percent": 101}]), "percent: must be a number between 0 and 100"),
    (service(traffic=[{"percent": 60}]), "should be 100"),
    (
        service(traffic=[{"percent": 100, "revision": "x"}]),
        "must be specified if and only if traffic type is",
    ),
    (
        service(traffic=[{"percent": 100, "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"}]),
        "must be specified if and only if traffic type is",
    ),
    (service(traffic=[{"percent": 50, "tag": "t"}, {"percent": 50, "tag": "t"}]), "may not contain a duplicate tag"),
    (service(container=limits(cpu="3")), "Must be equal to one of [.08-1], 1.0, 2.0, 4.0, 6.0, 8.0"),
    (service(container=limits(cpu="0.05")), "Must be equal to one of [.08-1]"),
    (service(container=limits(cpu="x")), "limits.cpu: Could not parse Quantity"),
    (service(container=limits(memory="x")), "limits.memory: Could not parse Quantity"),
    (service(container=limits(disk="1Gi")), "limits are supported"),
    (
        service(container=limits(cpu="1", memory="8Gi")),
        "Invalid value specified for container memory. For 1.0 CPU, memory must be between 128Mi and 4Gi inclusive.",
    ),
    (
        service(container=limits(cpu="8", memory="2Gi")),
        "For 8.0 CPU, memory must be between 4Gi and 32Gi inclusive.",
    ),
    (
        service({"maxInstanceRequestConcurrency": 2}, limits(cpu="0.5")),
        "Total cpu < 1 is not supported with concurrency > 1",
    ),
    (service(container=limits(False, cpu="0.5")), "Total cpu < 1 is not supported with cpu always allocated"),
    (
        service(container=limits(False, memory="256Mi")),
        "Total memory < 512 Mi is not supported with cpu always allocated",
    ),
    (
        service({"executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2"}, limits(memory="256Mi")),
        "Total memory < 512 Mi is not supported with gen2 execution environment",
    ),
    (service({"vpcAccess": {}}), "one and only one of connector and network_interfaces must be set"),
    (service({"vpcAccess": {"networkInterfaces": [{"network": "a"}] * 2}}), "only 1 network interface is allowed"),
    (
        service({"vpcAccess": {"networkInterfaces": [{}]}}),
        "at least one of network or subnetwork should not be empty",
    ),
    (service({"volumes": [{"name": "a", "emptyDir": {}}] * 2}), "Duplicate volume name"),
    (service({"volumes": [{"name": "a", "cloudSqlInstance": {}}]}), "Cloud SQL volume must be named 'cloudsql'"),
    (service({"volumes": [{"name": "a", "gcs": {}}]}), "Bucket name must be specified"),
    (service(container={"volumeMounts": [{"name": "a", "mountPath": "/x"}]}), "which were not found in volumes list"),
    (
        service(
            {"volumes": [{"name": "a", "secret": {"secret": "s"}}]},
            {"volumeMounts": [{"name": "a", "mountPath": "/x", "subPath": "y"}]},
        ),
        "cannot have sub_path set",
    ),
    (
        service({"volumes": [{"name": "a"}]}, {"volumeMounts": [{"name": "a", "mountPath": "x"}]}),
        "must be a valid unix absolute path",
    ),
    (
        service({"volumes": [{"name": "a"}]}, {"volumeMounts": [{"name": "a", "mountPath": "/proc/"}]}),
        "are in one of disallowed mount points",
    ),
    (service(annotations={"run.googleapis.com/x": "y"}), "system annotations are not supported"),
    (service({"annotations": {"autoscaling.knative.dev/maxScale": "1"}}), "system annotations are not supported"),
    (service(labels={"run.googleapis.com/x": "y"}), "system labels are not supported"),
    (service(labels={"a": "v1.0"}), "Label value 'v1.0' violates format constraints"),
    (service(labels={"A": "x"}), "Label key 'A' violates format constraints"),
    (service(labels={f"k{n}": "" for n in range(65)}), "at most 64 labels"),
    (service(description="x" * 513), "description: must be at most 512"),
    (service(customAudiences=["x" * 33000]), "custom_audiences: length cannot exceed 32768"),
    (service(launchStage="DEPRECATED"), "only ALPHA, BETA, GA, or unspecified are supported"),
    (service({"serviceAccount": "not an account"}), "Unsupported service account"),
    (service({"revision": "hello-" + "x" * 60}), "must be less than 64 characters"),
]


@pytest.mark.parametrize(("body", "text"), GOOGLES, ids=[text for _, text in GOOGLES])
def test_services_that_cloud_run_refuses_get_its_message(body: Any, text: str):
    refusal = refusal_of(body)
    assert (refusal.http_code, text in refusal.message) == (400, True), refusal.message
    assert refusal.message.startswith("Violation in CreateServiceRequest.service.")


def mounted(source: Any, **mount: Any) -> dict[str, Any]:
    """A service with a volume of *source*."""
    volumes = [{"name": "v", **source}]
    return service({"volumes": volumes}, {"volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]})


def with_secret(**selector: Any) -> dict[str, Any]:
    return service(container={"env": [{"name": "A", "valueSource": {"secretKeyRef": selector}}]})


VOLUMES = [
    (service({"volumes": [{"name": "a", "emptyDir": {}}]}), 'volumes[0].name: volume with name "a" not mounted.'),
    (service(container={"volumeMounts": [{"name": "x", "mountPath": "/x"}]}), "has names ['x'] which were not found"),
    (mounted({}), "volumes[0]: exactly one of secret, cloudSqlInstance, emptyDir, nfs, gcs must be set."),
    (mounted({"emptyDir": {"sizeLimit": "much"}}), "empty_dir.size_limit: Could not parse Quantity 'much'."),
    (mounted({"gcs": {}}), "gcs.bucket: Bucket name must be specified."),
    (mounted({"secret": {}}), "secret.secret: must be {secret_name}, or projects/{project}/secrets/{secret_name}."),
    (mounted({"secret": {"secret": "s", "defaultMode": 512}}), "default_mode: must be a value between 0000 and 0777"),
    (mounted({"secret": {"secret": "s", "items": [{"path": "../x"}]}}), "items[0].path: must be a relative path"),
    (mounted({"secret": {"secret": "s", "items": [{"path": "a"}, {"path": "a"}]}}), "Duplicate path 'a'."),
    (mounted({"secret": {"secret": "s", "items": [{"path": "a", "version": "1/2"}]}}), "items[0].version: must be"),
    (mounted({"secret": {"secret": "s"}}, subPath="x"), "secret volume mount cannot have sub_path set."),
    (mounted({"gcs": {"bucket": "b"}}, subPath="../b"), "sub_path: must be a relative path without '..'."),
    (mounted({"emptyDir": {"medium": "DISK"}}), "empty_dir.size_limit: must be at least 10Gi for the medium DISK."),
    (mounted({"emptyDir": {}}, mountPath="/etc"), "mount paths ['/etc'] are in one of disallowed mount points."),
    (mounted({"emptyDir": {}}, mountPath="x"), "must be a valid unix absolute path."),
    (
        service(
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a/"}]},
        ),
        'volume_mounts[1].mount_path: "/a/" must be unique.',
    ),
    (with_secret(), "value_source.secret_key_ref.secret: must be {secret_name}"),
    (with_secret(secret="a b"), "value_source.secret_key_ref.secret: must be {secret_name}"),
    (with_secret(secret="s", version="."), "secret_key_ref.version: must be 'latest', an integer or an alias."),
    (containers({"ports": [{}]}, {"startupProbe": {"httpGet": {}}}), "containers[1].startupProbe: port must be"),
    (service(functionalType="FUNCTIONAL_TYPE_AGENT"), "functional_type: FUNCTIONAL_TYPE_AGENT needs"),
]


@pytest.mark.parametrize(("body", "message"), VOLUMES, ids=[message[:50] for _, message in VOLUMES])
def test_invalid_mounts_and_secrets_are_refused_as_by_cloud_run(body: Any, message: str):
    refusal = refusal_of(body)
    assert refusal.http_code == 400
    assert message in refusal.message


OURS = [
    (mounted({"nfs": {"server": "s", "path": "/p"}}), "service.template.volumes[0].nfs"),
    (mounted({"gcs": {"bucket": "b", "mountOptions": ["uid=1"]}}), "service.template.volumes[0].gcs.mountOptions"),
    (mounted({"emptyDir": {}}, subPath="x"), "service.template.containers[0].volumeMounts[0].subPath"),
    (
        service({"workloadIdentityConfig": {"identity": "x"}}, functionalType="FUNCTIONAL_TYPE_AGENT"),
        "service.template.workloadIdentityConfig",
    ),
    (service({"vpcAccess": {"connector": "x"}}), "service.template.vpcAccess.connector"),
    (service({"encryptionKey": "k"}), "service.template.encryptionKey"),
    (service({"encryptionKeyRevocationAction": "SHUTDOWN"}), "service.template.encryptionKeyRevocationAction"),
    (service({"nodeSelector": {"accelerator": "nvidia-l4"}}), "service.template.nodeSelector"),
    (service({"scaling": {"cpuUtilization": 0.5}}), "service.template.scaling.cpuUtilization"),
    (service({"timeout": "0.5s"}), "service.template.timeout"),
    (
        service(container=limits(**{"nvidia.com/gpu": "1"})),
        "service.template.containers[0].resources.limits.nvidia.com/gpu",
    ),
    (service(container={"ports": [{"name": "h2c"}]}), "service.template.containers[0].ports[0].name"),
    (service(container={"workingDir": "/x"}), "service.template.containers[0].workingDir"),
    (service(container={"baseImageUri": "x"}), "service.template.containers[0].baseImageUri"),
    (
        service(container={"sourceCode": {"cloudStorageSource": {"bucket": "b", "object": "o"}}}),
        "service.template.containers[0].sourceCode",
    ),
    (service(container={"sandboxLauncher": True}), "service.template.containers[0].sandboxLauncher"),
    (service(binaryAuthorization={"useDefault": True}), "service.binaryAuthorization"),
    (service(sshEnabled=True), "service.sshEnabled"),
    (service(buildConfig={"imageUri": "x"}), "service.buildConfig"),
    (service(multiRegionSettings={"regions": ["a"]}), "service.multiRegionSettings"),
    (service(ingress="INGRESS_TRAFFIC_NONE"), "service.ingress"),
    (service(launchStage="ALPHA"), "service.launchStage"),
    (service(scaling={"scalingMode": "MANUAL"}), "service.scaling.manualInstanceCount"),
    (service(traffic=[{"percent": 100, "tag": "t"}]), "service.traffic[0].tag"),
    (
        service(traffic=[{"percent": 100, "revision": "hello-1", "type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"}]),
        "service.traffic[0].revision",
    ),
    (service(traffic=[{"percent": 50}, {"percent": 50}]), "service.traffic[0].percent"),
]


@pytest.mark.parametrize(("body", "path"), OURS, ids=[path for _, path in OURS])
def test_unsupported_fields_are_refused_by_name(body: Any, path: str):
    refusal = refusal_of(body)
    assert (refusal.http_code, refusal.message.startswith(f"{path}: ")) == (501, True), refusal.message


ONCE = {"failureThreshold": 1}
ACCEPTED = [
    mounted({"emptyDir": {"medium": "MEMORY", "sizeLimit": "64Mi"}}),
    mounted({"secret": {"secret": "s", "items": [{"path": "a/b", "version": "3", "mode": 256}]}}),
    mounted({"gcs": {"bucket": "b", "readOnly": True}}, subPath="x/y"),
    with_secret(secret="projects/p/secrets/s", version="latest"),
    containers(
        {"ports": [{}], "name": "a", "dependsOn": ["b"]}, {"name": "b", "startupProbe": {"tcpSocket": {"port": 1}}}
    ),
    containers({"ports": [{}], "name": "a"}, {"name": "b", "env": [{"name": "PORT", "value": "8081"}]}),
    service(
        {"executionEnvironment": "EXECUTION_ENVIRONMENT_GEN1", "sessionAffinity": True, "healthCheckDisabled": True}
    ),
    service(container={"readinessProbe": {"httpGet": {}}}, defaultUriDisabled=True),
    service(container={"startupProbe": {"tcpSocket": {}, "periodSeconds": 240, "timeoutSeconds": 240, **ONCE}}),
    service(container={"startupProbe": {"tcpSocket": {}, "periodSeconds": 24, "failureThreshold": 10}}),
    service(functionalType="FUNCTIONAL_TYPE_MCP_SERVER"),
    service({"sessionAffinity": False, "healthCheckDisabled": False, "encryptionKey": "", "volumes": []}),
    service(binaryAuthorization={}, iapEnabled=False, defaultUriDisabled=False, launchStage="BETA"),
    service({"executionEnvironment": "EXECUTION_ENVIRONMENT_GEN2"}),
    service(container=limits(cpu="2", memory="1Gi")),
    service(container={"resources": {"cpuIdle": False, "startupCpuBoost": True}}),
    service(container={"image": "127.0.0.1:8470/europe-west1/demo/mcpfleet/hello@sha256:" + "0" * 64}),
    service(container={"image": "europe-docker.pkg.dev/a/b/c:v1@sha256:" + "0" * 64}),
    service(container={"image": "eu.gcr.io/a/b"}),
    service(container={"image": "mcpfleet/base:python3.13"}),
    service(scaling={"scalingMode": "MANUAL", "manualInstanceCount": 2}),
    service(traffic=[{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100}]),
    service(annotations={"acme.org/run.googleapis.com": "x"}, labels={"a-b_1": ""}),
    service(container={"startupProbe": {"tcpSocket": {}}, "livenessProbe": {"httpGet": {}}}),
]


@pytest.mark.parametrize("body", ACCEPTED, ids=[str(item)[-60:] for item in ACCEPTED])
def test_supported_and_empty_fields_are_accepted(body: Any):
    parsed = check(body)
    assert parsed == body
    complete = defaults.apply_defaults(parsed, "a@b.c")
    assert parsed == body, "defaults go to a copy"
    assert defaults.apply_defaults(complete, "other@b.c") == complete, "defaults are filled in once"
    run = {"name": "projects/p/locations/r/services/hello/revisions/x", "template": complete["template"]}
    assert build_workload(run, complete.get("scaling", {})).main.image == body["template"]["containers"][0]["image"]


@pytest.mark.parametrize("name", ["", "A", "a" * 50, "1a", "a-", "a.b", "hello\n"])
def test_a_service_name_that_cloud_run_refuses_is_refused(name: str):
    with pytest.raises(GoogleError, match="service_id: only lowercase, digits, and hyphens"):
        validation.check_service_id("CreateServiceRequest", name)


@pytest.mark.parametrize(
    ("revision", "service_level", "bounds"),
    [
        ({"maxInstanceCount": 100}, {}, (0, 100)),
        ({"maxInstanceCount": 3, "minInstanceCount": 1}, {}, (1, 3)),
        ({"maxInstanceCount": 3}, {"minInstanceCount": 2, "maxInstanceCount": 9}, (2, 3)),
        ({"maxInstanceCount": 9, "minInstanceCount": 4}, {"maxInstanceCount": 2}, (2, 2)),
        ({"maxInstanceCount": 9}, {"scalingMode": "MANUAL", "manualInstanceCount": 5}, (5, 5)),
    ],
)
def test_instances_are_limited_by_revision_and_service(revision: Any, service_level: Any, bounds: Any):
    assert instance_bounds(revision, service_level) == bounds


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 1),
        ("1000m", 1),
        (".08", 0.08),
        ("512Mi", 512 * 1024**2),
        ("1G", 10**9),
        ("", None),
        ("1Q", None),
        ("-1", None),
        ("1e3", None),
    ],
)
def test_quantities_are_parsed_in_kubernetes_format(text: str, amount: float | None):
    assert parse_quantity(text) == amount
