"""Tests of the diagnosis of a container that does not serve."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.data_plane.contract import Container, Probe, Revision
from mcpfleet_local_cloud.data_plane.diagnosis import FailureDetails, catches_sigterm, describe_failure, parse_listening

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
def test_a_program_that_cannot_be_inspected_gets_ten_seconds(mask):
    assert catches_sigterm(mask) is True


def test_a_grpc_health_service_that_is_not_serving_is_reported():
    text = describe_failure(
        revision(Probe(port=8080, grpc_service="acme.Weather")), FailureDetails(listening_on=((ANY, 8080),))
    )
    assert "failed the configured startup probe checks" in text
    assert "its gRPC health service (grpc.health.v1.Health) did not say of acme.Weather that it serves" in text


GOOGLE_LISTEN = (
    "Revision 'echo-00001-abc' is not ready and cannot serve traffic. The user-provided container failed to start and "
    "listen on the port defined provided by the PORT=8080 environment variable within the allocated timeout. This can "
    "happen when the container port is misconfigured or if the timeout is too short."
)


@pytest.mark.parametrize(
    ("ending", "advice"),
    [
        (FailureDetails(listening_on=(("127.0.0.1", 8080),)), "Let it listen on 0.0.0.0:8080."),
        (FailureDetails(listening_on=(("::1", 8080),)), "the server listens on ::1:8080"),
        (FailureDetails(listening_on=((ANY, 5000),)), "listens on port 5000, not on 8080"),
        (FailureDetails(), "nothing in it listens on any port"),
        (FailureDetails(listening_on=((ANY, 8080),)), "accepted no connection in time"),
    ],
)
def test_an_unreachable_container_is_reported_with_its_listening_addresses(ending, advice):
    text = describe_failure(revision(), ending)
    assert text.startswith(GOOGLE_LISTEN)
    assert advice in text.rpartition("What to change: ")[2]


@pytest.mark.parametrize(
    ("ending", "google", "advice"),
    [
        (FailureDetails(exit_code=3), "Container called exit(3).", "failed at start"),
        (FailureDetails(exit_code=0), "Container called exit(0).", "must stay in the foreground"),
        (FailureDetails(exit_code=127), "exit(127)", "not found or is not executable"),
        (FailureDetails(exit_code=139), "exit(139)", "signal 11"),
        (FailureDetails(exit_code=1, logs="exec user process caused: exec format error"), "exit(1)", "linux/amd64"),
        (
            FailureDetails(exit_code=1, logs="exec /x: exec format error", platform="linux/arm64"),
            "exit(1)",
            "linux/arm64`, or let Docker emulate linux/amd64",
        ),
        (FailureDetails(exit_code=1, logs="nginx: permission denied (13)"), "exit(1)", "lacks a permission"),
        (FailureDetails(exit_code=0), "Container called exit(0).", "`speaks: stdio`"),
        (
            FailureDetails(exit_code=137, out_of_memory=True),
            "Memory limit of 512 MiB exceeded. Consider increasing the memory limit",
            "more memory",
        ),
        (
            FailureDetails(start_error='exec: "nope": executable file not found in $PATH'),
            "The container failed to start",
            "Correct `command` and `args`",
        ),
        (
            FailureDetails(start_error="exec /x: exec format error"),
            "The container failed to start",
            "--platform linux/amd64",
        ),
    ],
)
def test_a_container_that_exited_is_reported_with_what_to_change(ending, google, advice):
    text = describe_failure(revision(), ending)
    assert google in text.partition("\n")[0]
    assert advice in text.rpartition("What to change: ")[2]


def test_a_failed_http_probe_is_named_as_such():
    probe = Probe(port=8080, http_path="/ready")
    text = describe_failure(revision(startup_probe=probe), FailureDetails(listening_on=((ANY, 8080),)))
    assert "failed the configured startup probe checks" in text
    assert "GET /ready" in text


def test_the_last_twenty_log_lines_are_shown():
    text = describe_failure(
        revision(), FailureDetails(exit_code=1, logs="".join(f"line {chr(97 + n)}\n" for n in range(30)))
    )
    assert "  line k\n" in text
    assert "  line ~\n" in text
    assert "line j\n" not in text


def test_a_container_without_output_is_reported_as_such():
    assert "The container wrote no logs." in describe_failure(revision(), FailureDetails(exit_code=1))


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("ModuleNotFoundError: No module named 'mcp.server.fastmcp'", '`bounds: ["mcp<2"]`'),
        ("ImportError: cannot import name 'FastMCP' from 'mcp.server' (/opt/venv/x.py)", '`bounds: ["mcp<2"]`'),
        ("ModuleNotFoundError: No module named 'httpx'", "httpx is not installed in the image"),
        ("Error: Cannot find module 'express'", "express is not installed in the image"),
        ("Error [ERR_MODULE_NOT_FOUND]: Cannot find package '@acme/x' imported from /app/a.js", "@acme/x is not"),
        (" → '/opt/server/node_modules/@a/sqlite3/build/Release/x.node'", '`install_scripts: ["@a/sqlite3"]`'),
        ("KeyError: 'WEATHER_API_KEY'", "the environment variable WEATHER_API_KEY. Set it in `env`"),
        ("Error: BRAVE_API_KEY environment variable is required", "the environment variable BRAVE_API_KEY."),
        ("Missing required environment variable: SLACK_BOT_TOKEN", "the environment variable SLACK_BOT_TOKEN."),
        ("Please set SLACK_BOT_TOKEN and SLACK_TEAM_ID environment variables", "variable SLACK_BOT_TOKEN."),
        ("ValueError: GITHUB_TOKEN must be set", "the environment variable GITHUB_TOKEN."),
        ("PermissionError: [Errno 13] Permission denied: '/app/memory.json'", "no right to /app/memory.json."),
        ("PermissionError: [Errno 13] Permission denied: '/app/data/x.db'", "`writable: [/app/data]`"),
        ("Error: EACCES: permission denied, open '/opt/x/memory.json'", "by the variable MEMORY_FILE_PATH in `env`"),
        ("PermissionError: [Errno 13] Permission denied: '/home/a/.cache/hub'", "the variable XDG_CACHE_HOME in `env`"),
        ("OSError: [Errno 30] Read-only file system: '/srv/x.db'", "no right to /srv/x.db."),
        ("Error: EACCES: permission denied, mkdir '/opt/logs'", "no right to /opt/logs."),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'git'", "run git, which is not in the image"),
        ("ImportError: Failed to initialize: Bad git executable.", "run git, which is not in the image"),
        ("Error: spawn kubectl ENOENT", "run kubectl, which is not in the image"),
        ("/bin/sh: 1: uvx: not found", "run uvx, which is not in the image"),
    ],
)
def test_a_programs_last_output_determines_cause_and_advice(line, advice):
    text = describe_failure(revision(), FailureDetails(exit_code=1, logs=f"Starting…\n{line}\n"))
    assert advice in text.rpartition("What to change: ")[2]


def test_the_last_error_of_a_program_determines_the_advice():
    logs = "KeyError: 'FIRST_KEY'\nretrying\nKeyError: 'SECOND_KEY'\n"
    assert "variable SECOND_KEY" in describe_failure(revision(), FailureDetails(exit_code=1, logs=logs))


@pytest.mark.parametrize(
    "line",
    [
        "$GIT_PYTHON_REFRESH environment variable. Use one of the following values:",
        "    - be set via $GIT_PYTHON_GIT_EXECUTABLE",
        "INFO listening, LOG_LEVEL is info",
        "loaded module 'mcp.server'",
    ],
)
def test_a_line_without_a_known_cause_yields_no_advice(line):
    assert "failed at start" in describe_failure(revision(), FailureDetails(exit_code=1, logs=line))


def test_structured_entries_are_shown_by_message_without_repetitions():
    entries = [
        {"severity": "ERROR", "message": "Error: X_KEY is required"},
        {"message": 7},
        {"message": "At\x1b\ntempt"},
    ]
    logs = "\n".join([json.dumps(entry) for entry in entries] * 3 + ["{no JSON", "try 1", "try 23"])
    text = describe_failure(revision(), FailureDetails(exit_code=1, logs=logs))
    assert text.partition("Last log lines:\n")[2].splitlines()[:5] == [
        "  Error: X_KEY is required",
        '  {"message": 7}',
        "  At  tempt",
        "  {no JSON",
        "  try 23",
    ]
    assert "variable X_KEY" in text


def test_log_text_yields_no_advice_for_a_listening_server():
    ending = FailureDetails(listening_on=((ANY, 5000),), logs="warning: OLD_SETTING is missing")
    assert "listens on port 5000, not on 8080" in describe_failure(revision(), ending)


@pytest.mark.parametrize(
    ("answered", "advice"),
    [
        (
            '503 Service Unavailable\n{"status":"unhealthy","reason":"the process ends by itself: exit code 1."}',
            "with 503 Service Unavailable and says: the process ends by itself: exit code 1. Correct what it says",
        ),
        (
            '503 No\n{"status":"unhealthy","reason":"KeyError: \'BRAVE_API_KEY\'"}',
            "the program needs the environment variable BRAVE_API_KEY.",
        ),
        ("404 Not Found\nnothing", "the server has no /health: it answers 404. Write the path"),
        ("500 Oops\n<html>long page", "answers GET /health with 500 Oops. Correct what it says"),
        ("500 Oops\ndatabase\x1b[2J is down\nmore", "says: database [2J is down. Correct"),
    ],
)
def test_the_response_to_a_failed_probe_is_reported(answered, advice):
    probe = Probe(port=8080, http_path="/health")
    text = describe_failure(
        revision(startup_probe=probe), FailureDetails(listening_on=((ANY, 8080),), probe_response=answered)
    )
    assert advice in text.rpartition("What to change: ")[2]
    assert "\x1b" not in text


def test_a_late_successful_probe_is_reported_as_too_slow():
    probe = Probe(port=8080, http_path="/health")
    text = describe_failure(
        revision(startup_probe=probe),
        FailureDetails(listening_on=((ANY, 8080),), probe_response="200 OK\nOLD_KEY is missing"),
    )
    assert "did not answer 2xx or 3xx to GET /health in time" in text


@given(st.text(), st.text(), st.one_of(st.none(), st.integers(0, 255)))
def test_any_output_of_a_container_yields_one_line_of_advice(logs, answered, code):
    ending = FailureDetails(exit_code=code, logs=logs, probe_response="" if code is not None else answered)
    probe = Probe(port=8080, http_path="/health")
    advice = describe_failure(revision(startup_probe=probe), ending).rpartition("What to change: ")[2]
    assert advice
    assert advice.isprintable()
    assert len(advice) < 1500
