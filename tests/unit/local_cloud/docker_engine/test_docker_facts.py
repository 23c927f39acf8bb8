"""Tests of an engine's facts, and of their consequences."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.docker_engine import EngineFacts, Limits

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each, max_size=3),
)
KEYS = st.sampled_from(
    ["ID", "Name", "OperatingSystem", "Architecture", "NCPU", "SecurityOptions", "MemoryLimit", "DockerRootDir"]
)
# As docker.io 20.10 of Debian 12 said it in rootless mode on cgroup v1.
ROOTLESS = {
    "ID": "42DS:SFIF",
    "DockerRootDir": "/home/ada/.local/share/docker",
    "MemoryLimit": False,
    "CpuCfsPeriod": False,
    "CpuCfsQuota": False,
    "PidsLimit": False,
    "CgroupDriver": "none",
    "Architecture": "x86_64",
    "NCPU": 2,
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
}
VERSION = {"Version": "20.10.24+dfsg1", "Components": [{"Name": "Engine"}]}


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({"OperatingSystem": "Docker Desktop", "Name": "docker-desktop"}, "Docker Desktop"),
        ({"OperatingSystem": "OrbStack", "Name": "orbstack"}, "OrbStack"),
        ({"OperatingSystem": "Ubuntu 24.04 LTS", "Name": "colima-work"}, "Colima"),
        ({"OperatingSystem": "Alpine Linux v3.21", "Name": "lima-rancher-desktop"}, "Rancher Desktop"),
        ({"OperatingSystem": "Rancher Desktop WSL Distribution", "Name": "LAPTOP"}, "Rancher Desktop"),
        ({"OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "Name": "vm"}, "Docker Engine"),
        ({}, "Docker Engine"),
    ],
)
def test_an_engine_has_its_product_name(info, kind):
    assert EngineFacts.from_api(VERSION, info).kind == kind


def test_podman_is_recognized_by_its_components():
    # podman 4.3.1
    components = [{"Name": "Podman Engine"}, {"Name": "Conmon"}]
    version = {"Platform": {"Name": "linux/amd64/debian-12"}, "Version": "4.3.1", "Components": components}
    assert str(EngineFacts.from_api(version, {})) == "Podman 4.3.1"


@pytest.mark.parametrize(
    ("kernels", "images"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("arm64", "arm64"), ("riscv64", "riscv64")]
)
def test_images_have_the_engines_architecture(kernels, images):
    assert EngineFacts.from_api(VERSION, {"Architecture": kernels}).platform == f"linux/{images}"


def test_two_engines_of_one_machine_differ_in_spite_of_the_same_id():
    one, other = (
        EngineFacts.from_api(VERSION, {"ID": "7EI7", "DockerRootDir": place}) for place in ("/var/lib/docker", "/other")
    )
    assert one.identity != other.identity


def test_rootless_docker_on_cgroup_v1_reports_missing_limits_and_consequences():
    facts = EngineFacts.from_api(VERSION, ROOTLESS)
    assert str(facts) == "Docker Engine 20.10.24+dfsg1 (rootless)"
    assert facts.limits.missing == ["memory", "cpu", "processes"]
    assert "it cannot limit containers' memory, cpu and processes" in facts.limits_warning
    assert "cgroup v2" in facts.limits_warning


def test_an_engine_with_every_limit_has_no_warning():
    assert EngineFacts.from_api(VERSION, {"MemoryLimit": True, "PidsLimit": True}).limits_warning == ""


SPEC = {"image": "x", "mem_limit": 1, "memswap_limit": 1, "nano_cpus": 1, "pids_limit": 1}


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (Limits(), set(SPEC)),
        (Limits(memory=False), {"image", "nano_cpus", "pids_limit"}),
        (Limits(cpu=False), {"image", "mem_limit", "memswap_limit", "pids_limit"}),
        (Limits(memory=False, cpu=False, processes=False), {"image"}),
    ],
)
def test_unsupported_limits_are_left_out_of_a_container(limits, left):
    assert set(limits.without_unsupported(SPEC)) == left


@given(JSON, JSON | st.dictionaries(KEYS, JSON))
def test_any_response_of_an_engine_is_parsed(version, info):
    facts = EngineFacts.from_api(version, info)
    assert facts.cpus > 0
    assert isinstance(facts.root_folder, Path)
    assert str(facts)
