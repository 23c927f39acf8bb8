from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.example_image import TOOLBOX_IMAGE, content_hash, find_toolbox_image
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup.base_image import (
    BASE_IMAGE,
    SPEC_LABEL,
    BaseImageSpec,
    ensure_base_image,
    write_context,
)
from mcpfleet_local_cloud.commands.setup.certificates import (
    file_name,
    parse_certificates,
    read_extra_certificates,
    select_extra_certificates,
)
from mcpfleet_local_cloud.commands.setup.docker_api import ImageFacts
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram
from mcpfleet_local_cloud.docker_engine import EngineFacts
from pulumi_mcpfleet.sources.build_plan import BASE_IMAGE as PINNED

REPOSITORY = Path(__file__).resolve().parents[4]
REFERENCE = f"python:3.13-slim@sha256:{'a' * 64}"
NO_HUB = "dial tcp: lookup registry.example: no such host"


def pem(text):
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def recipe():
    return BaseImageSpec(REFERENCE, [])


@pytest.fixture
def debian(host):
    """A machine whose mmdebstrap works: it writes its output file."""

    def make(words):
        Path(words[-1]).write_text("a root file system")
        return CompletedProgram(0, "I: success")

    host.programs["mmdebstrap"] = Path("/usr/bin/mmdebstrap")
    host.answers[("mmdebstrap",)] = make
    return host


def test_an_up_to_date_image_is_left_alone(host, paths, engine, recipe, step):
    engine.images[BASE_IMAGE] = ImageFacts(labels={SPEC_LABEL: recipe.hash})
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == []
    assert step.detail == "in place"


@pytest.mark.parametrize(
    ("process", "machine", "foreign"),
    [("x86_64", "amd64", []), ("aarch64", "arm64", []), ("x86_64", "arm64", ["--architectures=arm64"])],
)
def test_the_image_has_the_engines_architecture(debian, paths, engine, recipe, step, process, machine, foreign):
    debian.system = ("Linux", process)
    engine.said = EngineFacts(architecture=machine)
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    (command,) = [words for words in debian.calls if words[0] == "mmdebstrap"]
    assert [word for word in command if word.startswith("--architectures")] == foreign


@pytest.mark.parametrize("labels", [{}, {SPEC_LABEL: "of another recipe"}])
def test_an_image_of_another_specification_is_replaced(host, paths, engine, recipe, step, labels):
    engine.images[BASE_IMAGE] = ImageFacts(labels=labels)
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.images[BASE_IMAGE].labels[SPEC_LABEL] == recipe.hash


def test_the_pinned_image_is_pulled_if_a_registry_is_reachable(host, paths, engine, recipe, step):
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == ["pull python:3.13-slim", f"build {BASE_IMAGE}"]
    assert host.calls == []
    ensure_base_image(host, paths, engine, recipe, step)
    assert len(engine.did) == 2, "the second run found the first one's image"


def test_the_machines_certificates_are_added_to_a_pulled_image(host, paths, engine, step):
    ensure_base_image(host, paths, engine, BaseImageSpec(REFERENCE, [pem("proxy")]), step)
    (context,) = engine.contexts
    assert context[file_name(pem("proxy"))] == pem("proxy")
    assert "RUN update-ca-certificates\nENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in context["Dockerfile"]


def test_without_extra_certificates_a_pulled_image_gets_only_a_label(tmp_path, recipe):
    write_context(tmp_path, recipe)
    assert (tmp_path / "Dockerfile").read_text() == "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


def test_without_a_registry_the_image_is_built_from_debian_packages(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    assert engine.did == ["pull python:3.13-slim", f"import {BASE_IMAGE}"]
    assert engine.images[BASE_IMAGE].labels == {SPEC_LABEL: recipe.hash}
    assert step.detail == "built from Debian packages"


def test_the_machines_certificates_are_added_to_a_built_image(debian, paths, engine, step):
    engine.refuse["pull"] = NO_HUB
    copied = []

    def make(words):
        hooks = [word for word in words if word.startswith("--customize-hook=cp ")]
        copied.extend(Path(hook.split('"')[1]).read_text() for hook in hooks)
        assert '--customize-hook=chroot "$1" update-ca-certificates' in words
        Path(words[-1]).write_text("a root file system")
        return CompletedProgram(0, "")

    debian.answers[("mmdebstrap",)] = make
    ensure_base_image(debian, paths, engine, BaseImageSpec(REFERENCE, [pem("one"), pem("two")]), step)
    assert copied == [pem("one"), pem("two")]


def test_after_a_docker_prune_the_image_is_imported_without_a_pull(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    engine.images.clear()
    engine.did.clear()
    debian.calls.clear()
    ensure_base_image(debian, paths, engine, recipe, step)
    assert engine.did == [f"import {BASE_IMAGE}"]
    assert debian.calls == []
    assert step.detail == "imported from the cache"


def test_a_changed_specification_is_built_anew_and_the_old_tar_is_removed(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    changed = BaseImageSpec(REFERENCE, [pem("a new authority")])
    ensure_base_image(debian, paths, engine, changed, step)
    assert [path.name for path in (paths.cache / "base").iterdir()] == [f"{changed.hash}.tar"]


def test_a_missing_mmdebstrap_is_installed_on_debian(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    del debian.programs["mmdebstrap"]
    debian.files[Path("/etc/os-release")] = "ID=debian\n"
    debian.answers[("apt-get",)] = CompletedProgram(0, "")
    ensure_base_image(debian, paths, engine, recipe, step)
    assert any(words[-2:] == ["mmdebstrap", "debian-archive-keyring"] for words in debian.calls)


def test_an_image_that_cannot_be_built_or_pulled_is_one_message_with_the_next_step(host, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    with pytest.raises(SetupError, match=r"can't be pulled \(dial tcp.*no such host\)") as failure:
        ensure_base_image(host, paths, engine, recipe, step)
    assert "MCPFLEET_BASE_IMAGE" in failure.value.next_step


def test_a_failed_mmdebstrap_shows_its_last_output_and_leaves_no_tar(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    debian.answers[("mmdebstrap",)] = CompletedProgram(25, "E: apt-get update failed")
    with pytest.raises(SetupError, match="E: apt-get update failed"):
        ensure_base_image(debian, paths, engine, recipe, step)
    assert list((paths.cache / "base").iterdir()) == []


def test_a_tar_that_docker_refuses_is_removed(debian, paths, engine, recipe, step):
    engine.refuse.update(pull=NO_HUB, **{"import": "unexpected EOF"})
    with pytest.raises(SetupError, match="could not import the base image: unexpected EOF"):
        ensure_base_image(debian, paths, engine, recipe, step)
    assert list((paths.cache / "base").iterdir()) == []


def test_a_configured_image_that_docker_has_is_not_pulled(host, paths, engine, step):
    engine.images["corp/python:3.13"] = ImageFacts()
    recipe = BaseImageSpec("corp/python:3.13", [], is_chosen=True)
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == [f"build {BASE_IMAGE}"]


def test_a_configured_image_is_not_replaced(debian, paths, engine, step):
    engine.refuse["pull"] = "manifest unknown"
    with pytest.raises(SetupError, match="MCPFLEET_BASE_IMAGE=corp/pyton:3 can't be used: manifest unknown"):
        ensure_base_image(debian, paths, engine, BaseImageSpec("corp/pyton:3", [], is_chosen=True), step)
    assert debian.calls == []


@given(st.lists(st.text(min_size=1), unique=True, max_size=3), st.lists(st.text(min_size=1), unique=True, max_size=3))
def test_only_equal_specifications_have_the_same_hash(one, other):
    hashes = [BaseImageSpec(REFERENCE, [pem(text) for text in texts]).hash for texts in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


def test_another_pinned_digest_is_another_specification(recipe):
    assert BaseImageSpec(f"python:3.13-slim@sha256:{'b' * 64}", []).hash != recipe.hash


def test_every_dockerfile_uses_the_pinned_base_image_of_setup():
    files = [file for file in REPOSITORY.glob("*/**/Dockerfile") if not {".mcpfleet", ".venv"} & {*file.parts}]
    pins = {line for file in files for line in file.read_text().splitlines() if line.startswith("ARG BASE_IMAGE=")}
    assert pins == {f"ARG BASE_IMAGE={PINNED}"}


def test_only_certificates_added_to_the_machine_are_extra():
    bundle = f"# Example Root\n{pem('root')}{pem('proxy')}"
    assert select_extra_certificates(bundle, [pem("root"), pem("other root")]) == [pem("proxy")]


def test_line_ends_and_comments_do_not_change_a_certificate():
    remarked = "subject=Example\n" + pem("root").replace("\n", " \r\n")
    assert parse_certificates(remarked) == parse_certificates(pem("root"))
    assert select_extra_certificates(remarked, [pem("root")]) == []


def test_without_the_distributions_list_no_certificate_is_extra():
    assert select_extra_certificates(pem("root"), []) == []


def test_the_certificate_bundle_in_the_environment_is_used(tmp_path):
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "root.crt").write_text(pem("root"))
    (tmp_path / "bundle.pem").write_text(pem("root") + pem("proxy"))
    environ = {"SSL_CERT_FILE": str(tmp_path / "bundle.pem")}
    assert read_extra_certificates(environ, tmp_path / "roots") == [pem("proxy")]


@pytest.fixture
def toolbox(paths):
    folder = paths.root / "examples" / "toolbox"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    return folder


def test_the_example_image_is_built_once_and_again_after_an_edit(paths, engine, step, toolbox):
    for _ in range(2):
        find_toolbox_image(paths, engine, "recipe", step)
    assert engine.did == [f"build {TOOLBOX_IMAGE}"]
    (toolbox / "Dockerfile").write_text("FROM scratch\nUSER 1\n")
    find_toolbox_image(paths, engine, "recipe", step)
    assert len(engine.did) == 2
    find_toolbox_image(paths, engine, "another base", step)
    assert len(engine.did) == 3


def test_a_failed_build_is_reported_with_its_output(paths, engine, step, toolbox):
    engine.refuse["build"] = "RUN pip install: no matching distribution"
    with pytest.raises(SetupError, match="no matching distribution"):
        find_toolbox_image(paths, engine, "recipe", step)


def test_the_image_hash_separates_file_names_from_contents(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, files in ((one, {"x": "a", "y": "b"}), (other, {"x": "ayb"})):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    assert content_hash(one) != content_hash(other)
