"""Which engine is used: as the docker command decides, then the usual sockets."""

import errno
import hashlib
import json

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.docker_engine import (
    EngineAddress,
    NoEngineError,
    create_client,
    engine_environment,
    find_engine,
    list_addresses,
)
from mcpfleet_local_cloud.docker_engine.address import AddressError
from mcpfleet_local_cloud.docker_engine.client import find_os_error

MACHINE = "unix:///var/run/docker.sock"


@pytest.fixture
def home(tmp_path):
    return tmp_path


@pytest.fixture
def context(home):
    """Writes the context of a name as the docker command does; *current* makes it the one in use."""

    def write(name, host, *, tls=False, skip=False, current=True):
        number = hashlib.sha256(name.encode()).hexdigest()
        folder = home / ".docker" / "contexts"
        meta = folder / "meta" / number
        meta.mkdir(parents=True)
        endpoint = {"Host": host, "SkipTLSVerify": skip}
        (meta / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}))
        if current:
            (home / ".docker" / "config.json").write_text(json.dumps({"currentContext": name}))
        secrets = folder / "tls" / number / "docker"
        if tls:
            secrets.mkdir(parents=True)
            for file in ("ca.pem", "cert.pem", "key.pem"):
                (secrets / file).touch()
        return secrets

    return write


def found(home, **environ):
    return list_addresses({"HOME": str(home), **environ})


def test_docker_host_takes_precedence_over_contexts_and_sockets(home, context):
    context("colima", "unix:///colima.sock")
    (address,) = found(home, DOCKER_HOST="tcp://127.0.0.1:2375", DOCKER_CONTEXT="colima")
    assert str(address) == "tcp://127.0.0.1:2375 (DOCKER_HOST)"


def test_only_the_current_contexts_engine_is_tried(home, context):
    context("colima", "unix:///home/ada/.colima/default/docker.sock")
    (address,) = found(home)
    assert str(address) == "unix:///home/ada/.colima/default/docker.sock (the Docker context colima)"


def test_docker_context_takes_precedence_over_the_current_context(home, context):
    context("orbstack", "unix:///orbstack.sock", current=False)
    context("colima", "unix:///colima.sock")
    (address,) = found(home, DOCKER_CONTEXT="orbstack")
    assert address.host == "unix:///orbstack.sock"


def test_the_config_folder_can_be_configured(home, context):
    context("colima", "unix:///colima.sock")
    (address,) = list_addresses({"HOME": "/nowhere", "DOCKER_CONFIG": str(home / ".docker")})
    assert address.host == "unix:///colima.sock"


@pytest.mark.parametrize("environ", [{"DOCKER_CONTEXT": "default"}, {"DOCKER_HOST": "", "DOCKER_CONTEXT": ""}])
def test_the_default_context_means_the_default_sockets(home, environ):
    assert found(home, **environ)[0] == EngineAddress(host=MACHINE)


def test_a_missing_context_is_an_error(home):
    with pytest.raises(AddressError, match="The Docker context 'gone' was chosen, but cannot be read"):
        found(home, DOCKER_CONTEXT="gone")


def test_a_context_of_the_working_folder_is_not_read(home, context, monkeypatch):
    """The SDK's own reader does where there is no config file: a checkout could bring an engine of its own."""
    context("mine", "unix:///hostile.sock", current=False)
    monkeypatch.chdir(home / ".docker")
    with pytest.raises(AddressError, match="cannot be read"):
        list_addresses({"HOME": "/nowhere", "DOCKER_CONTEXT": "mine"})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"currentContext": 7}', "\u0000"])
def test_an_invalid_config_file_leaves_the_default_sockets(home, content):
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text(content)
    assert found(home)[0].host == MACHINE


def test_the_default_sockets_are_tried_in_order(home):
    (home / ".colima" / "work").mkdir(parents=True)
    (home / ".colima" / "work" / "docker.sock").touch()
    assert [item.host.replace(str(home), "~") for item in found(home, XDG_RUNTIME_DIR="/run/user/1000")] == [
        MACHINE,
        "unix:///run/user/1000/docker.sock",
        "unix://~/.docker/run/docker.sock",
        "unix://~/.docker/desktop/docker.sock",
        "unix://~/.orbstack/run/docker.sock",
        "unix://~/.rd/docker.sock",
        "unix://~/.colima/docker.sock",
        "unix://~/.colima/default/docker.sock",
        "unix://~/.colima/work/docker.sock",
        "unix://~/.config/colima/default/docker.sock",
        "unix:///run/user/1000/podman/podman.sock",
        "unix://~/.local/share/containers/podman/machine/podman.sock",
    ]


@pytest.mark.parametrize(
    "host", ["ssh://ada@build.example", "tcp://10.0.0.5:2375", "tcp://docker:2376", "10.0.0.5:2375"]
)
def test_a_remote_engine_is_refused_with_the_reason(home, host):
    with pytest.raises(AddressError, match=r"another machine's engine.* published ports arrive at") as refused:
        found(home, DOCKER_HOST=host)
    assert refused.value.next_step == "type: unset DOCKER_HOST"


def test_a_remote_engine_in_a_context_is_refused(home, context):
    context("build", "ssh://ada@build.example")
    with pytest.raises(AddressError, match=r"ssh://ada@build\.example \(the Docker context build\)") as refused:
        found(home)
    assert refused.value.next_step == "type: docker context use default"


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "tcp://[::1]:2375", "localhost:2375", "http://127.5.0.1:1"])
def test_a_loopback_port_is_accepted(home, host):
    assert [item.host for item in found(home, DOCKER_HOST=host)] == [host]


def outcome(environ):
    """The addresses, or the next step of the refusal: there is always one."""
    try:
        return list_addresses(environ)
    except AddressError as error:
        return error.next_step


@given(st.text(max_size=60))
def test_any_docker_host_is_an_address_or_an_error_with_the_next_step(text):
    assert outcome({"DOCKER_HOST": text, "HOME": "/nowhere"})


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda each: st.lists(each) | st.dictionaries(st.sampled_from(["Endpoints", "docker", "Host", "x"]), each),
)


@given(DOCUMENTS)
def test_any_json_of_a_context_is_an_address_or_an_error(tmp_path_factory, value):
    home = tmp_path_factory.mktemp("home")
    meta = home / ".docker/contexts/meta" / hashlib.sha256(b"x").hexdigest()
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps(value))
    assert outcome({"HOME": str(home), "DOCKER_CONTEXT": "x"})


def test_every_program_gets_the_same_engine(home, context):
    secrets = context("tls", "tcp://127.0.0.1:2376", tls=True)
    (address,) = found(home)
    assert address.environment == {
        "DOCKER_HOST": "tcp://127.0.0.1:2376",
        "DOCKER_CONTEXT": "",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(secrets),
    }
    assert list_addresses({"HOME": "/nowhere", **address.environment}) == [
        EngineAddress(host=address.host, chosen_by="DOCKER_HOST", certificates=secrets, verify=True)
    ]


def test_tls_variables_are_not_used_for_a_socket(home):
    (address,) = found(home, DOCKER_HOST=MACHINE, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH="/gone")
    assert address.environment["DOCKER_TLS_VERIFY"] == address.environment["DOCKER_CERT_PATH"] == ""


# --- which of them answers -------------------------------------------------------------------------


def answering(*there, refusing=None):
    """A `connect` that knows who listens where."""
    refusing = refusing or {}

    def connect(address):
        if address.host in refusing:
            raise refusing[address.host]
        if address.host in there:
            return address.host
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    return connect


def test_the_first_responding_engine_is_used(home):
    rootless = "unix:///run/user/7/docker.sock"
    assert find_engine({"HOME": str(home), "XDG_RUNTIME_DIR": "/run/user/7"}, answering(rootless)) == rootless


def test_without_a_listening_socket_there_is_no_engine(home):
    assert find_engine({"HOME": str(home)}, answering()) is None


def test_a_user_without_access_to_the_system_engine_gets_a_rootless_one(home):
    rootless = "unix:///run/user/7/docker.sock"
    denied = {MACHINE: PermissionError(errno.EACCES, "Permission denied")}
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": "/run/user/7"}
    assert find_engine(environ, answering(rootless, refusing=denied)) == rootless
    with pytest.raises(NoEngineError, match="this user has no access to it") as refused:
        find_engine(environ, answering(refusing=denied))
    assert "usermod -aG docker" in refused.value.next_step


def test_a_configured_engine_is_not_replaced_by_another(home, context):
    context("colima", "unix:///colima.sock")
    with pytest.raises(NoEngineError, match=r"No Docker Engine answers at unix:///colima\.sock") as refused:
        find_engine({"HOME": str(home)}, answering(MACHINE))
    assert refused.value.next_step == "start it, or use this machine's own: docker context use default"


def test_podman_is_reported_only_if_no_docker_engine_responds(home):
    podman = f"unix://{home}/podman/podman.sock"
    refusing = {podman: NoEngineError("Podman 4.3.1 answers")}
    environ = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    assert find_engine(environ, answering(MACHINE, refusing=refusing)) == MACHINE
    with pytest.raises(NoEngineError, match=r"Podman 4\.3\.1"):
        find_engine(environ, answering(refusing=refusing))
    assert find_engine(environ, answering(refusing=refusing), podman=False) is None


def test_podmans_system_socket_is_not_reported_as_docker(home):
    podman = f"unix://{home}/podman/podman.sock"
    denied = {podman: PermissionError(errno.EACCES, "Permission denied")}
    assert find_engine({"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, answering(refusing=denied)) is None


def test_a_program_gets_the_whole_environment_and_the_engine(home):
    given = {"HOME": str(home), "DOCKER_HOST": MACHINE, "DOCKER_CONTEXT": "other", "PATH": "/bin"}
    assert engine_environment(given) == {**given, "DOCKER_CONTEXT": ""}


def test_the_client_refuses_a_refused_address(home):
    with pytest.raises(NoEngineError, match="another machine"):
        create_client({"HOME": str(home), "DOCKER_HOST": "ssh://x"})


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (PermissionError(errno.EACCES, "denied"), PermissionError),
        (FileNotFoundError(errno.ENOENT, "no socket"), FileNotFoundError),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ConnectionRefusedError),
    ],
)
def test_the_operating_systems_error_is_found_in_the_cause_chain(cause, kind):
    # requests keeps urllib3's error in args, which keeps the OSError in args: seen with docker 7.2.
    wrapped = requests.ConnectionError(Exception("Connection aborted.", cause))
    outer = RuntimeError("Error while fetching server API version")
    outer.__cause__ = wrapped
    assert type(find_os_error(outer)) is kind


def test_an_exception_without_an_os_error_in_its_causes_yields_none():
    assert find_os_error(requests.ReadTimeout("timed out")) is None
