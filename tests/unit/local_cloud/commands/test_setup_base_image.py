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
    """A machine whose mmdebstrap works: it writes the file that it is told to write."""

    def make(words):
        Path(words[-1]).write_text("a root file system")
        return CompletedProgram(0, "I: success")

    host.programs["mmdebstrap"] = Path("/usr/bin/mmdebstrap")
    host.answers[("mmdebstrap",)] = make
    return host


def test_the_image_of_the_recipe_is_left_alone(host, paths, engine, recipe, step):
    engine.images[BASE_IMAGE] = ImageFacts(labels={SPEC_LABEL: recipe.hash})
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == []
    assert step.detail == "in place"


@pytest.mark.parametrize(
    ("process", "machine", "foreign"),
    [("x86_64", "amd64", []), ("aarch64", "arm64", []), ("x86_64", "arm64", ["--architectures=arm64"])],
)
def test_the_image_is_made_for_the_engines_machine_and_not_for_this_process(
    debian, paths, engine, recipe, step, process, machine, foreign
):
    debian.system = ("Linux", process)
    engine.said = EngineFacts(architecture=machine)
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    (command,) = [words for words in debian.calls if words[0] == "mmdebstrap"]
    assert [word for word in command if word.startswith("--architectures")] == foreign


@pytest.mark.parametrize("labels", [{}, {SPEC_LABEL: "of another recipe"}])
def test_an_image_of_another_recipe_is_replaced(host, paths, engine, recipe, step, labels):
    engine.images[BASE_IMAGE] = ImageFacts(labels=labels)
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.images[BASE_IMAGE].labels[SPEC_LABEL] == recipe.hash


def test_the_pinned_image_is_pulled_where_a_registry_hands_it_out(host, paths, engine, recipe, step):
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == ["pull python:3.13-slim", f"build {BASE_IMAGE}"]
    assert host.calls == []
    ensure_base_image(host, paths, engine, recipe, step)
    assert len(engine.did) == 2, "the second run found the first one's image"


def test_a_pulled_image_is_made_to_trust_what_the_machine_trusts(host, paths, engine, step):
    ensure_base_image(host, paths, engine, BaseImageSpec(REFERENCE, [pem("proxy")]), step)
    (context,) = engine.contexts
    assert context[file_name(pem("proxy"))] == pem("proxy")
    assert "RUN update-ca-certificates\nENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt" in context["Dockerfile"]


def test_without_extra_certificates_a_pulled_image_gets_a_label_and_nothing_else(tmp_path, recipe):
    write_context(tmp_path, recipe)
    assert (tmp_path / "Dockerfile").read_text() == "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


def test_without_a_registry_it_is_made_from_debian_packages(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    assert engine.did == ["pull python:3.13-slim", f"import {BASE_IMAGE}"]
    assert engine.images[BASE_IMAGE].labels == {SPEC_LABEL: recipe.hash}
    assert step.detail == "built from Debian packages"


def test_the_machine_s_authorities_are_put_into_what_is_made(debian, paths, engine, step):
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


def test_a_wiped_docker_costs_one_import_and_no_pull(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    ensure_base_image(debian, paths, engine, recipe, step)
    engine.images.clear()
    engine.did.clear()
    debian.calls.clear()
    ensure_base_image(debian, paths, engine, recipe, step)
    assert engine.did == [f"import {BASE_IMAGE}"]
    assert debian.calls == []
    assert step.detail == "imported from the cache"


def test_a_changed_recipe_is_made_anew_and_the_old_tar_goes(debian, paths, engine, recipe, step):
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


def test_where_nothing_can_be_made_the_refusal_and_the_way_out_are_one_message(host, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    with pytest.raises(SetupError, match=r"can't be pulled \(dial tcp.*no such host\)") as failure:
        ensure_base_image(host, paths, engine, recipe, step)
    assert "MCPFLEET_BASE_IMAGE" in failure.value.next_step


def test_a_failed_mmdebstrap_shows_its_last_words_and_leaves_no_tar(debian, paths, engine, recipe, step):
    engine.refuse["pull"] = NO_HUB
    debian.answers[("mmdebstrap",)] = CompletedProgram(25, "E: apt-get update failed")
    with pytest.raises(SetupError, match="E: apt-get update failed"):
        ensure_base_image(debian, paths, engine, recipe, step)
    assert list((paths.cache / "base").iterdir()) == []


def test_a_tar_that_docker_refuses_is_not_kept(debian, paths, engine, recipe, step):
    engine.refuse.update(pull=NO_HUB, **{"import": "unexpected EOF"})
    with pytest.raises(SetupError, match="could not import the base image: unexpected EOF"):
        ensure_base_image(debian, paths, engine, recipe, step)
    assert list((paths.cache / "base").iterdir()) == []


def test_an_image_that_the_user_names_is_used_without_a_pull_when_docker_has_it(host, paths, engine, step):
    engine.images["corp/python:3.13"] = ImageFacts()
    recipe = BaseImageSpec("corp/python:3.13", [], is_chosen=True)
    ensure_base_image(host, paths, engine, recipe, step)
    assert engine.did == [f"build {BASE_IMAGE}"]


def test_an_image_that_the_user_names_is_not_replaced_by_another(debian, paths, engine, step):
    engine.refuse["pull"] = "manifest unknown"
    with pytest.raises(SetupError, match="MCPFLEET_BASE_IMAGE=corp/pyton:3 can't be used: manifest unknown"):
        ensure_base_image(debian, paths, engine, BaseImageSpec("corp/pyton:3", [], is_chosen=True), step)
    assert debian.calls == []


@given(st.lists(st.text(min_size=1), unique=True, max_size=3), st.lists(st.text(min_size=1), unique=True, max_size=3))
def test_recipes_have_the_same_hash_only_when_they_are_the_same(one, other):
    hashes = [BaseImageSpec(REFERENCE, [pem(text) for text in texts]).hash for texts in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


def test_another_pin_is_another_recipe(recipe):
    assert BaseImageSpec(f"python:3.13-slim@sha256:{'b' * 64}", []).hash != recipe.hash


def test_every_dockerfile_of_ours_is_pinned_to_the_base_that_setup_makes():
    files = [file for file in REPOSITORY.glob("*/**/Dockerfile") if not {".mcpfleet", ".venv"} & {*file.parts}]
    pins = {line for file in files for line in file.read_text().splitlines() if line.startswith("ARG BASE_IMAGE=")}
    assert pins == {f"ARG BASE_IMAGE={PINNED}"}


def test_only_certificates_that_somebody_added_are_extra():
    bundle = f"# Example Root\n{pem('root')}{pem('proxy')}"
    assert select_extra_certificates(bundle, [pem("root"), pem("other root")]) == [pem("proxy")]


def test_line_ends_and_remarks_make_no_certificate_a_new_one():
    remarked = "subject=Example\n" + pem("root").replace("\n", " \r\n")
    assert parse_certificates(remarked) == parse_certificates(pem("root"))
    assert select_extra_certificates(remarked, [pem("root")]) == []


def test_where_the_distribution_s_list_is_unknown_nothing_is_called_extra():
    assert select_extra_certificates(pem("root"), []) == []


def test_the_bundle_that_the_environment_names_is_the_one_that_is_read(tmp_path):
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


def test_what_a_failed_build_said_is_in_the_message(paths, engine, step, toolbox):
    engine.refuse["build"] = "RUN pip install: no matching distribution"
    with pytest.raises(SetupError, match="no matching distribution"):
        find_toolbox_image(paths, engine, "recipe", step)


def test_a_name_is_never_taken_for_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, files in ((one, {"x": "a", "y": "b"}), (other, {"x": "ayb"})):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    assert content_hash(one) != content_hash(other)
