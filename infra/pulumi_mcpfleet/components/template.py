"""The provider's arguments for a Cloud Run revision: containers, probes, volumes and network.

The functions translate a server's or client's configuration; they create no resources.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pulumi

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import ExistingImage, Server, Workload
from pulumi_mcpfleet.fleet.containers import SERVER
from pulumi_mcpfleet.fleet.parts import Probe, Probes, SecretRef, Sidecar, Vpc
from pulumi_mcpfleet.fleet.rules import secret_folder
from pulumi_mcpfleet.fleet.volumes import GcsVolume, InMemory, NfsVolume, OnDisk, SecretVolume
from pulumi_mcpfleet.fleet.workload import SQL_MOUNT, SQL_VOLUME

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateArgsDict as Template,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerArgsDict as Container,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerEnvArgsDict as Variable,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateContainerVolumeMountArgsDict as Mount,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateVolumeArgsDict as Volume,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateVolumeSecretArgsDict as Source,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateVolumeSecretItemArgsDict as Item,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateVpcAccessArgsDict as VpcAccess,
    )
    from pulumi_gcp.cloudrunv2 import (
        ServiceTemplateVpcAccessNetworkInterfaceArgsDict as Interface,
    )

# With a short period, a server gets requests within a second after it is ready. Sixty attempts are ten times what the
# reference server needs on one CPU, and a broken image still fails long before Cloud Run's limit of 240 s.
STARTUP: Final = Probe(period=1, timeout=1, failures=60)

_GPU: Final = "nvidia.com/gpu"

# For a container without a health path: Cloud Run's default, which waits until the port accepts connections.
LISTENING: Final = Probe(period=240, timeout=240, failures=1)

# Liveness probes detect a server that no longer responds. They are rare because each one costs CPU time.
LIVENESS: Final = Probe(period=30, timeout=5, failures=3)


class Image(NamedTuple):
    """The image of a container.

    Attributes:
        url: The image's address, with a tag or digest.
        args: Arguments that replace the image's CMD.
        reads: Environment variables that its source reads (`sources.environment_use`).
        shares: State in its source that all callers share (`sources.shared_state`).
    """

    url: pulumi.Input[str]
    args: Sequence[str] = ()
    reads: frozenset[str] = frozenset()
    shares: str = ""


def revision(
    spec: Workload, email: pulumi.Output[str], containers: Sequence["Container"], *, project: str, region: str
) -> "Template":
    """Return the template of a revision that runs as the service account *email* in *region* of *project*."""
    template: Template = {
        "service_account": email,
        "timeout": f"{spec.timeout}s",
        "max_instance_request_concurrency": spec.concurrency,
        "scaling": {"max_instance_count": spec.max_instances},
        "containers": containers,
    }
    if spec.sandbox:
        template["execution_environment"] = f"EXECUTION_ENVIRONMENT_{spec.sandbox.upper()}"
    if volumes := _volumes(spec):
        template["volumes"] = volumes
    if spec.vpc is not None:
        template["vpc_access"] = _vpc_access(spec.vpc, project=project, region=region)
    if spec.session_affinity:
        template["session_affinity"] = True
    if spec.encryption_key is not None:
        template["encryption_key"] = spec.encryption_key
    if spec.gpu is not None:
        template["node_selector"] = {"accelerator": spec.gpu}
        template["gpu_zonal_redundancy_disabled"] = not spec.gpu_zonal_redundancy
    return template


def containers(
    spec: Server, image: Image, sidecar_images: Mapping[str, pulumi.Input[str]], env: Sequence["Variable"]
) -> list["Container"]:
    """Return the server's main container and its sidecars.

    A single container has no name, as in Cloud Run's own default, so its revision doesn't differ from that one.
    """
    main = main_container(spec, image, env, spec.probes, boost=spec.startup_boost)
    if not spec.sidecars:
        return [main]
    main["name"] = SERVER
    if spec.depends_on:
        main["depends_ons"] = spec.depends_on
    idle = spec.cpu_throttling
    sidecars = [_sidecar(name, sidecar, sidecar_images[name], idle=idle) for name, sidecar in spec.sidecars.items()]
    return [main, *sidecars]


def variables(env: Mapping[str, pulumi.Input[str]], secrets: Mapping[str, SecretRef]) -> list["Variable"]:
    """Return the environment variables: plain ones, then those that Cloud Run sets from secrets."""
    plain: list[Variable] = [{"name": name, "value": value} for name, value in env.items()]
    secret: list[Variable] = [
        {"name": name, "value_source": {"secret_key_ref": {"secret": ref.secret, "version": ref.version}}}
        for name, ref in secrets.items()
        if not name.startswith("/")
    ]
    return [*plain, *secret]


def main_container(
    spec: Workload,
    image: Image,
    env: Sequence["Variable"],
    probes: Probes | None = None,
    *,
    boost: bool = True,
) -> "Container":
    """Return the container that receives a workload's requests.

    Args:
        spec: The server or client.
        image: The container's image.
        env: The container's environment variables.
        probes: The probes in the config.
        boost: True for more CPU during the start.
    """
    port, probes = spec.port, probes or Probes()
    # Ports and probes are always set, even to Cloud Run's defaults: in an update, an omitted field keeps the value of
    # the last revision, so a probe could use a port on which the server no longer listens.
    container: Container = {
        "image": image.url,
        "envs": env,
        "ports": {"container_port": port, "name": "h2c" if spec.use_http2 else "http1"},
        "resources": {
            "limits": {"cpu": spec.cpu, "memory": spec.memory, **({_GPU: "1"} if spec.gpu else {})},
            "cpu_idle": spec.cpu_throttling,  # absent would mean false
            "startup_cpu_boost": boost,
        },
    }
    container["startup_probe"] = startup_probe(spec, port, probes.startup)
    liveness = probes.liveness or LIVENESS
    liveness_path = liveness.path or spec.health_path
    if probes.restart and (liveness_path or liveness.grpc):
        container["liveness_probe"] = _probe(liveness, liveness_path, liveness.port or port)
    if (readiness := probes.readiness) is not None:
        container["readiness_probe"] = _probe(readiness, readiness.path or spec.health_path, readiness.port or port)
    if image.args:
        container["args"] = image.args
    if isinstance(spec.source, ExistingImage) and spec.source.command:
        container["commands"] = spec.source.command
    if mounts := [*_volume_mounts(spec), *_secret_mounts("", spec.secrets)]:
        container["volume_mounts"] = mounts
    return container


def startup_probe(spec: Workload, port: int, configured: Probe | None) -> Any:
    """Return the startup probe of a container: the *configured* one, or the default."""
    startup = configured or (STARTUP if spec.health_path else LISTENING)
    return _probe(startup, startup.path or spec.health_path, startup.port or port)


def _probe(probe: Probe, path: str | None, port: int) -> Any:
    """Return a probe by gRPC, HTTP or TCP. The result is Any because each kind of probe has its own type."""
    check: dict[str, Any] = {"http_get": {"path": path, "port": port}} if path else {"tcp_socket": {"port": port}}
    if probe.grpc is not None:
        check = {"grpc": {"port": port, **({"service": probe.grpc.service} if probe.grpc.service else {})}}
    delay = {"initial_delay_seconds": probe.initial_delay} if probe.initial_delay else {}
    return {
        **check,
        **delay,
        "period_seconds": probe.period,
        "timeout_seconds": probe.timeout,
        "failure_threshold": probe.failures,
    }


def _sidecar(name: str, spec: Sidecar, image: pulumi.Input[str], *, idle: bool) -> "Container":
    container: Container = {
        "name": name,
        "image": image,
        # `cpu_idle` applies to the whole instance, so all of its containers must have the same value.
        "resources": {"limits": {"cpu": spec.cpu, "memory": spec.memory}, "cpu_idle": idle},
    }
    if env := variables(spec.env, spec.secrets):
        container["envs"] = env
    if spec.args:
        container["args"] = spec.args
    if spec.command:
        container["commands"] = spec.command
    if spec.depends_on:
        container["depends_ons"] = spec.depends_on
    if spec.startup is not None and spec.startup.port is not None:
        container["startup_probe"] = _probe(spec.startup, spec.startup.path, spec.startup.port)
    shared: list[Mount] = [{"name": volume, "mount_path": path} for volume, path in spec.mounts.items()]
    if mounts := [*shared, *_secret_mounts(f"{name}-", spec.secrets)]:
        container["volume_mounts"] = mounts
    return container


def _volumes(spec: Workload) -> list["Volume"]:
    """Return all volumes of an instance: those in the config, and one for each folder of secret files."""
    volumes = [_volume(name, volume) for name, volume in spec.volumes.items()]
    volumes += [
        _volume(naming.writable_volume(folder), InMemory(memory=spec.memory, mount=folder)) for folder in spec.writable
    ]
    if spec.cloudsql_instances:
        volumes.append({"name": SQL_VOLUME, "cloud_sql_instance": {"instances": spec.cloudsql_instances}})
    volumes += _secret_volumes("", spec.secrets)
    for name, sidecar in spec.all_sidecars.items():
        volumes += _secret_volumes(f"{name}-", sidecar.secrets)
    return volumes


def _volume(name: str, volume: InMemory | OnDisk | GcsVolume | SecretVolume | NfsVolume) -> "Volume":
    match volume:
        case OnDisk(disk=size):
            return {"name": name, "empty_dir": {"medium": "DISK", "size_limit": size}}
        case InMemory(memory=size):
            return {"name": name, "empty_dir": {"medium": "MEMORY", "size_limit": size}}
        case GcsVolume(gcs=gcs):
            return {"name": name, "gcs": {"bucket": gcs.bucket, "read_only": gcs.read_only}}
        case NfsVolume(nfs=nfs):
            return {"name": name, "nfs": {"server": nfs.server, "path": nfs.path, "read_only": nfs.read_only}}
        case SecretVolume():
            return {"name": name, "secret": _secret(volume)}


def _secret(volume: SecretVolume) -> "Source":
    items: list[Item] = []
    for path, file in volume.files.items():
        item: Item = {"path": path, "version": file.version}
        if file.mode is not None:
            item["mode"] = int(file.mode, 8)
        items.append(item)
    source: Source = {"secret": volume.secret, "items": items}
    if volume.mode is not None:
        source["default_mode"] = int(volume.mode, 8)
    return source


def _volume_mounts(spec: Workload) -> list["Mount"]:
    mounts: list[Mount] = [{"name": name, "mount_path": volume.mount} for name, volume in spec.volumes.items()]
    mounts.extend({"name": naming.writable_volume(folder), "mount_path": folder} for folder in spec.writable)
    if spec.cloudsql_instances:
        mounts.append({"name": SQL_VOLUME, "mount_path": SQL_MOUNT})
    return mounts


def _secret_files(secrets: Mapping[str, SecretRef]) -> dict[str, dict[str, SecretRef]]:
    """Return the secrets that are files: by folder, then by file name."""
    files: dict[str, dict[str, SecretRef]] = {}
    for target, ref in secrets.items():
        if folder := secret_folder(target):
            files.setdefault(folder, {})[target.rpartition("/")[2]] = ref
    return files


def _secret_volumes(owner: str, secrets: Mapping[str, SecretRef]) -> Iterator["Volume"]:
    for folder, files in _secret_files(secrets).items():
        first = next(iter(files.values()))
        items: list[Item] = [{"path": file, "version": ref.version} for file, ref in files.items()]
        yield {"name": _secret_volume(owner, folder), "secret": {"secret": first.secret, "items": items}}


def _secret_mounts(owner: str, secrets: Mapping[str, SecretRef]) -> Iterator["Mount"]:
    for folder in _secret_files(secrets):
        yield {"name": _secret_volume(owner, folder), "mount_path": folder}


def _secret_volume(owner: str, folder: str) -> str:
    return naming.secret_volume(owner + folder)


def _vpc_access(vpc: Vpc, *, project: str, region: str) -> "VpcAccess":
    """Return the egress into a VPC network.

    The subnetwork is always set, even to Google's default, which has the network's name: in an update, an omitted field
    keeps the value of the last revision, which can be a subnetwork of another network.
    """
    egress = "ALL_TRAFFIC" if vpc.all_traffic else "PRIVATE_RANGES_ONLY"
    if vpc.connector is not None:
        return {"egress": egress, "connector": naming.connector_path(vpc.connector, project=project, region=region)}
    interface: Interface = {"tags": list(vpc.tags)} if vpc.tags else {}
    if vpc.network:
        interface["network"] = vpc.network
    if subnetwork := vpc.subnetwork or naming.subnetwork_of(vpc.network or "", region):
        interface["subnetwork"] = subnetwork
    return {"egress": egress, "network_interfaces": [interface]}
