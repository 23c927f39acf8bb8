"""What a revision of a server is, in the provider's words: containers, probes, volumes, network.

Functions from the fleet's values to the provider's arguments; they create nothing.
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

# A short period finds a server ready within a second of its being so. Sixty tries are ten times what the
# reference server takes on one CPU, and still fail a broken image long before Cloud Run's 240 s.
STARTUP: Final = Probe(period=1, timeout=1, failures=60)

_GPU: Final = "nvidia.com/gpu"

# Cloud Run's own default for a container without a health path: it waits until something listens.
LISTENING: Final = Probe(period=240, timeout=240, failures=1)

# Liveness only finds a server that has stopped answering; rarely, because each probe costs CPU time.
LIVENESS: Final = Probe(period=30, timeout=5, failures=3)


class Image(NamedTuple):
    """What a container runs.

    Attributes:
        url: The image.
        args: Arguments in place of its CMD.
        reads: Variables that it is known to read (`sources.environment_use`).
        shares: State that its callers share (`sources.shared_state`).
    """

    url: pulumi.Input[str]
    args: Sequence[str] = ()
    reads: frozenset[str] = frozenset()
    shares: str = ""


def revision(
    spec: Workload, email: pulumi.Output[str], containers: Sequence["Container"], *, project: str, region: str
) -> "Template":
    """A revision of a server or a client that runs as *email* in *region* of *project*."""
    found: Template = {
        "service_account": email,
        "timeout": f"{spec.timeout}s",
        "max_instance_request_concurrency": spec.concurrency,
        "scaling": {"max_instance_count": spec.max_instances},
        "containers": containers,
    }
    if spec.sandbox:
        found["execution_environment"] = f"EXECUTION_ENVIRONMENT_{spec.sandbox.upper()}"
    if volumes := _volumes(spec):
        found["volumes"] = volumes
    if spec.vpc is not None:
        found["vpc_access"] = _vpc_access(spec.vpc, project=project, region=region)
    if spec.session_affinity:
        found["session_affinity"] = True
    if spec.encryption_key is not None:
        found["encryption_key"] = spec.encryption_key
    if spec.gpu is not None:
        found["node_selector"] = {"accelerator": spec.gpu}
        found["gpu_zonal_redundancy_disabled"] = not spec.gpu_zonal_redundancy
    return found


def containers(
    spec: Server, image: Image, sidecar_images: Mapping[str, pulumi.Input[str]], env: Sequence["Variable"]
) -> list["Container"]:
    """The server's own container, and its sidecars.

    A container that is alone has no name: Cloud Run gives it none, and one that comes later is no other revision.
    """
    own = own_container(spec, image, env, spec.probes, boost=spec.startup_boost)
    if not spec.sidecars:
        return [own]
    own["name"] = SERVER
    if spec.depends_on:
        own["depends_ons"] = spec.depends_on
    idle = spec.cpu_throttling
    return [own, *(_sidecar(name, one, sidecar_images[name], idle=idle) for name, one in spec.sidecars.items())]


def variables(env: Mapping[str, pulumi.Input[str]], secrets: Mapping[str, SecretRef]) -> list["Variable"]:
    """Plain variables, then those that Cloud Run fills from secrets."""
    plain: list[Variable] = [{"name": name, "value": value} for name, value in env.items()]
    secret: list[Variable] = [
        {"name": name, "value_source": {"secret_key_ref": {"secret": ref.secret, "version": ref.version}}}
        for name, ref in secrets.items()
        if not name.startswith("/")
    ]
    return [*plain, *secret]


def own_container(
    spec: Workload,
    image: Image,
    env: Sequence["Variable"],
    probes: Probes | None = None,
    *,
    boost: bool = True,
) -> "Container":
    """The container that takes a workload's requests.

    Args:
        spec: The server, or client.
        image: Its image.
        env: Its variables.
        probes: The user's own probes.
        boost: Whether it has more CPU while it starts.
    """
    port, probes = spec.port, probes or Probes()
    # Ports and probes are said even where they are Cloud Run's defaults: what is left out keeps, in an update, the
    # value of the last revision, and a probe would go on asking at a port that the server has left.
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
    asked = liveness.path or spec.health_path
    if probes.restart and (asked or liveness.grpc):
        container["liveness_probe"] = _probe(liveness, asked, liveness.port or port)
    if (ready := probes.readiness) is not None:
        container["readiness_probe"] = _probe(ready, ready.path or spec.health_path, ready.port or port)
    if image.args:
        container["args"] = image.args
    if isinstance(spec.source, ExistingImage) and spec.source.command:
        container["commands"] = spec.source.command
    if mounts := [*_volume_mounts(spec), *_secret_mounts("", spec.secrets)]:
        container["volume_mounts"] = mounts
    return container


def startup_probe(spec: Workload, port: int, own: Probe | None) -> Any:
    """What a container is asked until it may serve; *own*: as the user has it."""
    startup = own or (STARTUP if spec.health_path else LISTENING)
    return _probe(startup, startup.path or spec.health_path, startup.port or port)


def _probe(probe: Probe, path: str | None, port: int) -> Any:
    """A probe: by gRPC or HTTP, else whether the port listens. Any: each kind of probe has a type."""
    asks: dict[str, Any] = {"http_get": {"path": path, "port": port}} if path else {"tcp_socket": {"port": port}}
    if probe.grpc is not None:
        asks = {"grpc": {"port": port, **({"service": probe.grpc.service} if probe.grpc.service else {})}}
    delay = {"initial_delay_seconds": probe.initial_delay} if probe.initial_delay else {}
    return {
        **asks,
        **delay,
        "period_seconds": probe.period,
        "timeout_seconds": probe.timeout,
        "failure_threshold": probe.failures,
    }


def _sidecar(name: str, spec: Sidecar, image: pulumi.Input[str], *, idle: bool) -> "Container":
    container: Container = {
        "name": name,
        "image": image,
        # Cloud Run's switch is of the whole instance: all of its containers say the same.
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
    shared: list[Mount] = [{"name": volume, "mount_path": place} for volume, place in spec.mounts.items()]
    if mounts := [*shared, *_secret_mounts(f"{name}-", spec.secrets)]:
        container["volume_mounts"] = mounts
    return container


def _volumes(spec: Workload) -> list["Volume"]:
    """Every volume of an instance: the named ones, and one for each folder of secret files."""
    found = [_volume(name, one) for name, one in spec.volumes.items()]
    found += [
        _volume(naming.writable_volume(folder), InMemory(memory=spec.memory, mount=folder)) for folder in spec.writable
    ]
    if spec.cloudsql_instances:
        found.append({"name": SQL_VOLUME, "cloud_sql_instance": {"instances": spec.cloudsql_instances}})
    found += _secret_volumes("", spec.secrets)
    for name, sidecar in spec.all_sidecars.items():
        found += _secret_volumes(f"{name}-", sidecar.secrets)
    return found


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
    for path, one in volume.files.items():
        item: Item = {"path": path, "version": one.version}
        if one.mode is not None:
            item["mode"] = int(one.mode, 8)
        items.append(item)
    source: Source = {"secret": volume.secret, "items": items}
    if volume.mode is not None:
        source["default_mode"] = int(volume.mode, 8)
    return source


def _volume_mounts(spec: Workload) -> list["Mount"]:
    named: list[Mount] = [{"name": name, "mount_path": volume.mount} for name, volume in spec.volumes.items()]
    made: list[Mount] = [{"name": naming.writable_volume(one), "mount_path": one} for one in spec.writable]
    named += made
    return [*named, {"name": SQL_VOLUME, "mount_path": SQL_MOUNT}] if spec.cloudsql_instances else named


def _files(secrets: Mapping[str, SecretRef]) -> dict[str, dict[str, SecretRef]]:
    """The secret files by their folder."""
    found: dict[str, dict[str, SecretRef]] = {}
    for place, ref in secrets.items():
        if folder := secret_folder(place):
            found.setdefault(folder, {})[place.rpartition("/")[2]] = ref
    return found


def _secret_volumes(owner: str, secrets: Mapping[str, SecretRef]) -> Iterator["Volume"]:
    for folder, files in _files(secrets).items():
        first = next(iter(files.values()))
        items: list[Item] = [{"path": file, "version": ref.version} for file, ref in files.items()]
        yield {"name": _secret_volume(owner, folder), "secret": {"secret": first.secret, "items": items}}


def _secret_mounts(owner: str, secrets: Mapping[str, SecretRef]) -> Iterator["Mount"]:
    for folder in _files(secrets):
        yield {"name": _secret_volume(owner, folder), "mount_path": folder}


def _secret_volume(owner: str, folder: str) -> str:
    return naming.secret_volume(owner + folder)


def _vpc_access(vpc: Vpc, *, project: str, region: str) -> "VpcAccess":
    """Egress into a VPC network.

    A subnetwork is said even where it is Google's choice, the one with the network's name: what is left out keeps, in
    an update, the value of the last revision, and that would be a subnetwork of the network that the user has left.
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
