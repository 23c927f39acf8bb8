"""Terms of Cloud Run's API, its YAML and gcloud, with the fleet's key for each.

Only for error messages. If a user writes a correct term of another vocabulary, the fleet's key with the most similar
spelling would mislead: `gpu` is similar to `cpu`, and `encryption_key` to `description`.
"""

import re
from collections.abc import Mapping
from typing import Final

_NO_BUILDS: Final = "a fleet builds images from its `source` alone; write source: {folder: ./my_server}"
_PROBE: Final = "write it below probes: startup, liveness or readiness"
_NEWEST: Final = "all requests go to the newest revision; for a trial, write a second server beside the first"

TERMS: Final[Mapping[str, str]] = {
    # who may call
    "allow_unauthenticated": "write access: {public: {reason: …}}",
    "default_uri_disabled": "write default_url: false",
    "default_url_disabled": "write default_url: false",
    "iap_enabled": "write access: {iap: {members: […]}}",
    "invoker_iam_check": "write access: {public: {reason: …}}",
    "invoker_iam_disabled": "write access: {public: {reason: …}}",
    "custom_audiences": "write audiences",
    # how much, how many
    "cpu_boost": "write startup_boost",
    "startup_cpu_boost": "write startup_boost",
    "cpu_idle": "write cpu_throttling",
    "accelerator": "write gpu: nvidia-l4",
    "gpu_type": "write gpu: nvidia-l4",
    "node_selector": "write gpu: nvidia-l4",
    "gpu_zonal_redundancy_disabled": "write gpu_zonal_redundancy: false",
    "limits": "write cpu and memory",
    "resources": "write cpu and memory",
    "container_concurrency": "write concurrency",
    "max_instance_request_concurrency": "write concurrency",
    "max_instance_count": "write max_instances",
    "max_scale": "write max_instances",
    "min_instance_count": "write min_instances",
    "min_scale": "write min_instances",
    "scaling": "write min_instances and max_instances",
    "scaling_mode": "a fleet scales by min_instances and max_instances alone; for a fixed number make the two equal",
    "manual_instance_count": "a fleet has no manual scaling; make min_instances and max_instances equal",
    "concurrency_utilization": "a fleet has no targets of utilization; lower concurrency to have more instances",
    "cpu_utilization": "a fleet has no targets of utilization; lower concurrency to have more instances",
    "timeout_seconds": "write timeout",
    # the container
    "base_image": _NO_BUILDS,
    "base_image_uri": _NO_BUILDS,
    "build_config": _NO_BUILDS,
    "function": _NO_BUILDS,
    "function_target": _NO_BUILDS,
    "source_code": _NO_BUILDS,
    "containers": "write the server's own container as source, and the others as sidecars",
    "container_port": "write source: {image: …, port: …}; what is built here listens on PORT",
    "ports": "write source: {image: …, port: …}; what is built here listens on PORT",
    "env_vars": "write env",
    "environment": "write env",
    "workdir": "a fleet has no working directory; set WORKDIR in the Dockerfile",
    "working_dir": "a fleet has no working directory; set WORKDIR in the Dockerfile",
    "h2c": "write use_http2: true",
    "http2": "write use_http2: true",
    "sandbox_launcher": "a fleet has no sandboxes of Cloud Run's",
    # probes
    "failure_threshold": "write failures",
    "initial_delay_seconds": "write initial_delay",
    "period_seconds": "write period",
    "http_get": "write path, and port",
    "tcp_socket": "write port, and no path",
    "grpc": "write probes: {startup: {grpc: {}}}",
    "grpc_service": "write grpc: {service: NAME}",
    "health_check": _PROBE,
    "health_check_disabled": "a fleet has no way to switch health checks off; write probes: {startup: {failures: …}}",
    "liveness_probe": _PROBE,
    "readiness_probe": _PROBE,
    "success_threshold": "Cloud Run has none; two successes in a row let a readiness probe succeed",
    "startup_probe": _PROBE,
    # volumes
    "cloud_sql": "write cloudsql_instances: [PROJECT:REGION:INSTANCE]",
    "cloud_sql_instance": "write cloudsql_instances: [PROJECT:REGION:INSTANCE]",
    "cloudsql": "write cloudsql_instances: [PROJECT:REGION:INSTANCE]",
    "default_mode": "write mode",
    "disk": "write volumes: {NAME: {disk: 10Gi, mount: /scratch}}",
    "empty_dir": "write memory: SIZE, or disk: SIZE",
    "ephemeral_disk": "write disk: SIZE",
    "in_memory": "write memory: SIZE",
    "mount_options": "a fleet has no options of Cloud Storage FUSE; write read_only, or use the bucket by its API",
    "mount_path": "write mount",
    "sub_path": "a fleet mounts whole volumes; write a volume of its own for the folder",
    # network
    "domain_mapping": "write domain",
    "egress": "write vpc: {all_traffic: true}",
    "ingress_settings": "write ingress",
    "multi_region_settings": "write the fleet's regions",
    "network_interfaces": "write vpc: {network: …, subnetwork: …}",
    "network_tags": "write vpc: {tags: […]}",
    "service_mesh": "write a client with topology: mesh",
    "vpc_access": "write vpc",
    "vpc_connector": "write vpc: {connector: NAME}",
    "vpc_egress": "write vpc: {all_traffic: true}",
    # identity, and the rest
    "service_account_email": "write service_account",
    "service_account_name": "write service_account",
    "kms_key": "write encryption_key",
    "kms_key_name": "write encryption_key",
    "encryption_key_revocation_action": "a fleet leaves what happens when a key is revoked to Cloud Run",
    "encryption_key_shutdown_duration": "a fleet leaves what happens when a key is revoked to Cloud Run",
    "functional_type": "write agent_registry: functional-type",
    "project": "write gcp:project beside mcpfleet:fleet",
    "revision": _NEWEST,
    "revision_suffix": _NEWEST,
    "tag": _NEWEST,
    "traffic": _NEWEST,
    "ssh_enabled": "a fleet has no SSH into instances",
    "worker_pool": "a fleet has services alone; worker pools and jobs are deployed beside it",
    "job": "a fleet has services alone; worker pools and jobs are deployed beside it",
}
"""The advice for each term, in snake case: what to write instead, or that a fleet has no such setting."""


def snake(word: str) -> str:
    """Convert *word* to the spelling of the fleet's keys: `maxInstances` and `--max-instances` to `max_instances`."""
    bare = re.sub(r"^(--)?(no-|add-|set-|update-)?", "", word.rpartition("/")[2])
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", bare).replace("-", "_").lower()


def advice(word: str) -> str | None:
    """The fleet's spelling of a term of Cloud Run, as a part of a message; None if *word* is no such term."""
    return TERMS.get(snake(word))
