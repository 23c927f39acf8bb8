"""What `./dev check` says of dependencies: weaknesses that are known, a database that was silent, licences."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devtools.check import CHECKS, UNREACHABLE, Check, check, read_npm_audit, read_pip_audit
from devtools.licences import find_rejected, is_permissive, read_npm_licences
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram

CLEAN = {"name": "idna", "version": "3.10", "vulns": []}
WEAK = {"name": "h11", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"]}]}
SKIPPED = {"name": "idna", "skip_reason": "Dependency not found on PyPI and could not be audited: idna (3.10)"}


def pip_audit(*entries):
    return "No known vulnerabilities found\n" + json.dumps({"dependencies": entries, "fixes": []}) + "\nWARNING: x"


def test_vulnerabilities_of_python_packages_are_listed():
    assert read_pip_audit(pip_audit(CLEAN, SKIPPED, WEAK)) == ["h11 0.1: PYSEC-1, fixed in 0.2"]
    assert read_pip_audit(pip_audit(CLEAN, SKIPPED)) == []


@pytest.mark.parametrize("output", ["", "ERROR: no route to host", "{", pip_audit(), pip_audit(SKIPPED, SKIPPED)])
def test_unchecked_packages_are_not_reported_as_safe(output):
    assert read_pip_audit(output) is None


def test_vulnerabilities_of_npm_packages_are_listed():
    lines = {"vulnerabilities": {"left-pad": {"range": "<2", "severity": "high"}}, "metadata": {}}
    assert read_npm_audit(f"npm warn x\n{json.dumps(lines)}") == ["left-pad <2: high"]
    assert read_npm_audit('{"vulnerabilities": {}, "metadata": {}}') == []


@pytest.mark.parametrize("output", ["", "npm error code ENOTFOUND", '{"message": "405 Method Not Allowed"}', "{}"])
def test_a_failed_npm_audit_reports_no_package_as_safe(output):
    assert read_npm_audit(output) is None


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_output_of_an_audit_program_is_parsed(output):
    assert read_pip_audit(output) is None
    assert read_npm_audit(output) is None


def judged(host, plain, output):
    host.run = lambda _argv, **_: CompletedProgram(1, output)
    check(plain, host, [Check("Weaknesses", ("x",), "raise it", read_pip_audit)])
    return plain.console.file.getvalue()


def test_an_unreachable_vulnerability_database_is_reported_without_failing(host, plain):
    assert UNREACHABLE in judged(host, plain, "ERROR: no route to host")


def test_a_known_vulnerability_fails_the_check(host, plain):
    with pytest.raises(SetupError, match="h11"):
        judged(host, plain, pip_audit(WEAK))


def test_every_check_has_a_title_and_a_remedy():
    assert {item.title for item in CHECKS} >= {"Format", "Lint", "Types", "Secrets", "Licences"}
    assert all(item.remedy for item in CHECKS)


@pytest.mark.parametrize(
    ("expression", "passes"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("(MIT OR CC0-1.0)", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND Apache-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0", False),
        ("AGPL-3.0-or-later", False),
        ("SEE LICENSE IN LICENSE", False),
        ("MITX", False),
        ("", False),
    ],
)
def test_only_permissive_licences_pass(expression, passes):
    assert is_permissive(expression) is passes


def test_a_package_with_an_unknown_licence_is_listed_unless_a_reason_is_given():
    packages = [("good", ["MIT"]), ("odd", ["Proprietary"]), ("mute", []), ("kept", ["Proprietary"])]
    assert find_rejected(packages, {"kept": "because"}) == ["odd: Proprietary", "mute: no licence"]


def test_packages_of_npm_are_read_from_the_lock_file():
    lock = {
        "packages": {"": {"license": "X"}, "node_modules/a": {"license": "MIT"}, "node_modules/a/node_modules/@b/c": {}}
    }
    assert list(read_npm_licences(lock)) == [("npm:a", ["MIT"]), ("npm:@b/c", [])]


def test_the_programs_that_check_are_installed():
    for item in CHECKS:
        if item.argv[0].startswith("/"):
            assert Path(item.argv[1]).exists(), item.title
