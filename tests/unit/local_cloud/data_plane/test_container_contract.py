"""Tests of a container's configuration, its service's port, and its stored logs, without Docker."""

from dataclasses import replace

import pytest

from mcpfleet_local_cloud.data_plane.addresses import FIRST_PORT, PORTS, Addresses
from mcpfleet_local_cloud.data_plane.archive import BYTES, REVISIONS, LogArchive
from mcpfleet_local_cloud.data_plane.contract import Container, Revision, RolloutError
from mcpfleet_local_cloud.data_plane.spec import CloudContext, ContainerPlan, container_spec, fingerprint
from mcpfleet_local_cloud.state.store import Store

AROUND = CloudContext(cloud_id="c1", network="mcpfleet-c1", gateway="172.18.0.1", cpus=2.0)
REVISION = Revision(
    name="mcp-echo-00001-abc",
    service="mcp-echo",
    project="p",
    region="r",
    containers=(Container(name="", image="i@sha256:1", env=(("MCP_PATH", "/mcp"), ("PORT", "1")), port=9000, cpu=4.0),),
    service_account="a@b.c",
)


def changed(**changes):
    return replace(REVISION, containers=(replace(REVISION.main, **changes),))


def spec(revision=REVISION, number=1):
    place = ContainerPlan(index=0, number=number, image=revision.main.image, image_id="sha256:id", spec="f")
    return container_spec(revision, place, AROUND)


def test_cloud_runs_variables_take_precedence_over_the_users():
    assert spec()["environment"] == {
        "MCP_PATH": "/mcp",
        "PORT": "9000",
        "K_SERVICE": "mcp-echo",
        "K_REVISION": "mcp-echo-00001-abc",
        "K_CONFIGURATION": "mcp-echo",
        "CLOUD_RUN_TIMEOUT_SECONDS": "300",
        "GCE_METADATA_HOST": "172.18.0.1:80",
        "GCE_METADATA_IP": "172.18.0.1:80",
    }


def test_memory_excludes_swap_and_cpu_is_limited_to_the_machines():
    made = spec()
    assert made["mem_limit"] == made["memswap_limit"] == 512 * 1024 * 1024
    assert made["nano_cpus"] == 2_000_000_000


def test_a_container_has_minimal_privileges_and_is_stopped_by_sigterm():
    made = spec()
    assert (made["cap_drop"], made["security_opt"], made["stop_signal"]) == (
        ["ALL"],
        ["no-new-privileges"],
        "SIGTERM",
    )
    assert not {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD"} & set(made["cap_add"])


def test_a_container_has_limits_for_processes_and_logs():
    made = spec()
    assert made["pids_limit"] == 4096
    assert made["log_config"]["Config"] == {"max-size": "5m", "max-file": "2"}


def test_a_containers_labels_name_cloud_and_service():
    labels = spec()["labels"]
    assert labels["dev.mcpfleet.cloud"] == "c1"
    assert labels["dev.mcpfleet.service"] == "mcp-echo"
    assert labels["dev.mcpfleet.revision"] == "mcp-echo-00001-abc"
    assert spec()["name"] == "mcpfleet-c1-r-mcp-echo-00001-abc-1"


def test_command_replaces_the_entrypoint_and_args_the_command():
    made = spec(changed(command=("/bin/x",), args=("-v",)))
    assert (made["entrypoint"], made["command"]) == (["/bin/x"], ["-v"])
    assert not {"entrypoint", "command"} & set(spec())


def test_a_container_is_taken_over_only_with_the_same_configuration():
    def mark(revision=REVISION, image="sha256:id", around=AROUND):
        return fingerprint(revision, [image], around)

    assert mark() == mark(replace(REVISION, min_instances=3, max_instances=9))
    others = {
        mark(changed(env=())),
        mark(changed(memory_bytes=1)),
        mark(image="sha256:other"),
        mark(around=replace(AROUND, gateway="172.18.1.2")),
    }
    assert len(others) == 4
    assert mark() not in others


class Ports:
    """Listeners on a machine where some ports belong to other programs."""

    def __init__(self, *taken):
        self.taken = set(taken)

    def open(self, port):
        return port not in self.taken


def test_a_service_keeps_its_port_after_a_restart_and_a_new_deployment():
    store = Store()
    port = Addresses(store, Ports(), "c1").port("s/echo")
    assert FIRST_PORT <= port < FIRST_PORT + PORTS
    again = Addresses(store, Ports(), "c1")
    assert again.port("s/echo") == port
    assert again.service(port) == "s/echo"
    again.forget("s/echo")
    assert again.service(port) is None
    assert again.port("s/echo") == port


def test_a_new_service_avoids_ports_of_other_programs_and_of_other_services():
    store = Store()
    first = Addresses(store, Ports(), "c1").port("s/echo")
    second = Addresses(Store(), Ports(first), "c1").port("s/echo")
    assert second == FIRST_PORT + (first - FIRST_PORT + 1) % PORTS


def test_a_port_that_another_program_took_meanwhile_is_a_clear_error():
    store = Store()
    port = Addresses(store, Ports(), "c1").port("s/echo")
    with pytest.raises(RolloutError, match=rf"Port {port} of 127\.0\.0\.1, the address of s/echo, is used by another"):
        Addresses(store, Ports(port), "c1").port("s/echo")


def test_no_free_port_is_a_clear_error():
    everything = Ports(*range(FIRST_PORT, FIRST_PORT + PORTS))
    with pytest.raises(RolloutError, match="All ports"):
        Addresses(Store(), everything, "c1").port("s/echo")


def test_logs_of_removed_containers_are_kept_up_to_a_limit(tmp_path):
    archive = LogArchive(tmp_path)
    archive.add("s/echo", "r1", "old\n" + "x" * BYTES)
    archive.add("s/echo", "r1", "last words\n")
    text = archive.read("s/echo")
    assert (len(text), text.endswith("last words\n"), "old" in text) == (BYTES, True, False)
    for number in range(2, 10):
        archive.add("s/echo", f"r{number}", f"of {number}\n")
    assert len(list((tmp_path / "s_echo").iterdir())) == REVISIONS
    assert archive.read("s/other") == ""
