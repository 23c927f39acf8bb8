"""Why a container does not serve, told from what is left of it."""

import pytest

from mcpfleet_local_cloud.data_plane.contract import Container, Probe, Revision
from mcpfleet_local_cloud.data_plane.diagnosis import Ending, catches_sigterm, parse_listening, report

ANY = "0.0.0.0"  # noqa: S104
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
TCP = HEAD + (
    "   0: 0B00007F:A30F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
    "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0\n"
    "   2: 0200A8C0:1F91 0100A8C0:D431 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0\n"
)
TCP6 = HEAD + (
    "   0: 00000000000000000000000000000000:1388 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4\n"
    "   1: 00000000000000000000000001000000:1389 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5\n"
)


PROBE = Probe(port=8080, timeout=240, period=240, failure_threshold=1)


def revision(startup_probe=PROBE):
    return Revision(
        name="echo-00001-abc",
        service="echo",
        project="p",
        region="r",
        containers=(Container(name="", image="i", port=8080, startup_probe=startup_probe),),
        service_account="a@b.c",
    )


def test_listening_sockets_are_read_from_the_kernels_tables_without_dockers_name_server():
    assert parse_listening(TCP) == [("127.0.0.1", 8080)]
    assert parse_listening(TCP + TCP6) == [("127.0.0.1", 8080), ("::", 5000), ("::1", 5001)]


@pytest.mark.parametrize("mask", ["0000000000004000", "4000", " 0000000180014a02", "<0000000180014a02"])
def test_a_program_with_a_handler_catches_sigterm(mask):
    assert catches_sigterm(mask) is True


@pytest.mark.parametrize("mask", ["0000000000000002", "0", "0000000000000000 "])
def test_a_program_without_a_handler_does_not_catch_sigterm(mask):
    assert catches_sigterm(mask) is False


@pytest.mark.parametrize("mask", ["", "-", "?", "CAUGHT", "0x4000", "1" * 33])
def test_a_program_that_cannot_be_looked_at_is_given_its_ten_seconds(mask):
    assert catches_sigterm(mask) is True


GOOGLE_LISTEN = (
    "Revision 'echo-00001-abc' is not ready and cannot serve traffic. The user-provided container failed to start and "
    "listen on the port defined provided by the PORT=8080 environment variable within the allocated timeout. This can "
    "happen when the container port is misconfigured or if the timeout is too short."
)


@pytest.mark.parametrize(
    ("ending", "advice"),
    [
        (Ending(listening=(("127.0.0.1", 8080),)), "Let it listen on 0.0.0.0:8080."),
        (Ending(listening=(("::1", 8080),)), "the server listens on ::1:8080"),
        (Ending(listening=((ANY, 5000),)), "listens on port 5000, not on 8080"),
        (Ending(), "nothing in it listens on any port"),
        (Ending(listening=((ANY, 8080),)), "accepted no connection in time"),
    ],
)
def test_a_container_that_is_not_reached_is_told_where_it_listens(ending, advice):
    text = report(revision(), ending)
    assert text.startswith(GOOGLE_LISTEN)
    assert advice in text.rpartition("What to change: ")[2]


@pytest.mark.parametrize(
    ("ending", "google", "advice"),
    [
        (Ending(exit_code=3), "Container called exit(3).", "failed at start"),
        (Ending(exit_code=0), "Container called exit(0).", "must stay in the foreground"),
        (Ending(exit_code=127), "exit(127)", "not found or is not executable"),
        (Ending(exit_code=139), "exit(139)", "signal 11"),
        (Ending(exit_code=1, logs="exec user process caused: exec format error"), "exit(1)", "linux/amd64"),
        (
            Ending(exit_code=1, logs="exec /x: exec format error", platform="linux/arm64"),
            "exit(1)",
            "linux/arm64`, or let Docker emulate linux/amd64",
        ),
        (Ending(exit_code=1, logs="PermissionError: [Errno 13] Permission denied: '/x'"), "exit(1)", "denied a right"),
        (
            Ending(exit_code=137, out_of_memory=True),
            "Memory limit of 512 MiB exceeded. Consider increasing the memory limit",
            "more memory",
        ),
        (
            Ending(refused='exec: "nope": executable file not found in $PATH'),
            "The container failed to start",
            "Correct `command` and `args`",
        ),
        (Ending(refused="exec /x: exec format error"), "The container failed to start", "--platform linux/amd64"),
    ],
)
def test_a_container_that_ended_is_told_what_to_change(ending, google, advice):
    text = report(revision(), ending)
    assert google in text.partition("\n")[0]
    assert advice in text.rpartition("What to change: ")[2]


def test_a_failed_http_probe_is_named_as_such():
    probe = Probe(port=8080, http_path="/ready")
    text = report(revision(startup_probe=probe), Ending(listening=((ANY, 8080),)))
    assert "failed the configured startup probe checks" in text
    assert "GET /ready" in text


def test_the_last_twenty_log_lines_are_shown():
    text = report(revision(), Ending(exit_code=1, logs="".join(f"line {n}\n" for n in range(30))))
    assert "  line 10\n" in text
    assert "  line 29\n" in text
    assert "line 9\n" not in text


def test_a_silent_container_is_called_silent():
    assert "The container wrote no logs." in report(revision(), Ending(exit_code=1))
