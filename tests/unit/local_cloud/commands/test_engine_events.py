"""Tests of the messages and errors that are collected from the engine's events, as the SDK parses them."""

import pytest
from pulumi.automation.events import EngineEvent

from mcpfleet_local_cloud.commands.engine_events import EventCollector, extract_error, shorten_urn
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.pulumi_engine import UpdateError

SERVICE = "urn:pulumi:local::mcpfleet::mcpfleet:index:McpServer$gcp:cloudrunv2/service:Service::echo"
IMAGE = "urn:pulumi:local::mcpfleet::mcpfleet:index:McpServer$docker-build:index:Image::echo"
STACK = "urn:pulumi:local::mcpfleet::pulumi:pulumi:Stack::mcpfleet-local"


def event(**content):
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, **content})


def step_event(kind, op, urn):
    return event(**{kind: {"metadata": {"op": op, "urn": urn, "type": "t", "provider": "p"}, "status": 0, "steps": 0}})


def error(message, urn="", severity="error"):
    return event(diagnosticEvent={"urn": urn, "message": message, "color": "never", "severity": severity})


@pytest.fixture
def watch(step):
    return EventCollector(step)


def test_operations_are_shown_from_start_to_finish(watch, step):
    watch(step_event("resourcePreEvent", "create", SERVICE))
    assert step.progress_text == "creating Service echo"
    watch(step_event("resourcePreEvent", "delete-replaced", IMAGE))
    assert step.progress_text == "creating Service echo; deleting the old Image echo"
    watch(step_event("resOutputsEvent", "create", SERVICE))
    assert step.progress_text == "deleting the old Image echo"
    watch(step_event("resOpFailedEvent", "delete-replaced", IMAGE))
    assert step.progress_text == ""
    assert watch.changed_urns == [SERVICE, IMAGE]


@pytest.mark.parametrize("op", ["same", "read", "refresh"])
def test_unchanged_resources_are_not_counted_as_changed(watch, step, op):
    watch(step_event("resourcePreEvent", op, SERVICE))
    assert (watch.changed_urns, step.progress_text) == ([], "")


def test_a_preview_lists_changed_resources_without_progress(step):
    watch = EventCollector(step, planning=True)
    watch(step_event("resourcePreEvent", "update", SERVICE))
    assert (watch.changed_urns, step.progress_text) == ([SERVICE], "")


def test_a_refresh_before_the_run_counts_no_change_and_reports_its_errors(watch):
    before = watch.for_refresh()
    before(step_event("resourcePreEvent", "delete", SERVICE))
    before(error("the service cannot be read", SERVICE))
    assert watch.changed_urns == []
    assert watch.errors == ["gcp:cloudrunv2:Service echo: the service cannot be read"]


def test_the_summary_counts_changes_by_operation(watch):
    changes = {"create": 2, "same": 15, "delete": 1}
    watch(
        event(summaryEvent={"maybeCorrupt": False, "durationSeconds": 1, "resourceChanges": changes, "PolicyPacks": {}})
    )
    assert watch.changes == changes


def test_errors_are_collected_without_colours_under_their_resource(watch):
    watch(error("<{%fg 1%}>googleapi: Error 409:<{%reset%}> \x1b[31mtaken\x1b[0m\n", SERVICE))
    watch(error("no region", STACK))
    watch(error("no project"))
    assert watch.errors == ["gcp:cloudrunv2:Service echo: googleapi: Error 409: taken", "no region", "no project"]


def test_warnings_and_empty_messages_are_no_errors(watch):
    watch(error("look out", severity="warning"))
    watch(error("update failed", STACK))
    watch(error("<{%reset%}>\n"))
    assert watch.errors == []


def test_an_exception_of_the_program_is_reported_once_with_a_separate_traceback(watch):
    lines = 'Traceback (most recent call last):\n  File "__main__.py", line 35\nValueError: boom\n'
    watch(error(f"python inline source runtime error: boom\n{lines}", STACK))
    watch(error(f"an unhandled error occurred: python inline source runtime error: boom\n{lines}", STACK))
    assert watch.errors == ["boom"]
    assert watch.tracebacks[0] == f"boom\n{lines}"


def test_a_repeated_mistake_in_the_fleet_is_reported_once(watch):
    watch(error("fleet.region: missing", STACK))
    watch(error("an unhandled error occurred: fleet.region: missing", STACK))
    assert watch.errors == ["fleet.region: missing"]


def test_a_urn_is_shortened_to_type_and_name():
    assert shorten_urn(SERVICE) == "gcp:cloudrunv2:Service echo"
    assert (
        shorten_urn("urn:pulumi:local::mcpfleet::gcp:projects/service:Service::fleet-run")
        == "gcp:projects:Service fleet-run"
    )


def test_an_error_of_the_pulumi_command_is_extracted_from_its_output():
    wrapped = " code: 1\n stdout: \n stderr: error: invalid YAML file: line 19\n\n"
    assert extract_error(wrapped) == "invalid YAML file: line 19"
    assert extract_error("\x1b[31mtorn\x1b[0m\n") == "torn"
    assert extract_error("\n".join(map(str, range(50)))).splitlines() == [str(number) for number in range(38, 50)]


def test_a_failed_update_is_an_error_with_the_next_step():
    failure = UpdateError("no region", "mend it")
    assert isinstance(failure, SetupError)
    assert (failure.message, failure.next_step) == ("no region", "mend it")


def test_messages_about_servers_are_shown_and_those_of_builders_and_providers_are_not(watch):
    server = "urn:pulumi:dev::mcpfleet::mcpfleet:index:McpServer::echo"
    watch(error("echo: Python (`language`)\n", server, severity="info"))
    watch(error("Step 1/3", f"{server}$docker-build:index:Image::echo", severity="info"))
    watch(error("something", "", severity="info"))
    assert watch.messages == ["echo: Python (`language`)"]
    assert watch.errors == []
