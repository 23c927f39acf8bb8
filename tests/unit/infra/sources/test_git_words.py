"""What git is asked for and what it says: addresses of submodules, and why a fetch failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulumi_mcpfleet.sources import checkout, git


@pytest.mark.parametrize(
    ("base", "address", "expected"),
    [
        ("https://git.acme.dev/a/b.git", "../c.git", "https://git.acme.dev/a/c.git"),
        ("https://git.acme.dev/a/b.git/", "../../x/c.git", "https://git.acme.dev/x/c.git"),
        ("https://git.acme.dev/a/b.git", "./c.git", "https://git.acme.dev/a/b.git/c.git"),
        ("git@git.acme.dev:a/b.git", "../c.git", "git@git.acme.dev:a/c.git"),
        ("git@git.acme.dev:b.git", "../c.git", "git@git.acme.dev:c.git"),
        ("git@git.acme.dev:a/b.git", "../../c.git", "git@git.acme.dev:c.git"),
        ("ssh://git@git.acme.dev:2222/a/b.git", "../c.git", "ssh://git@git.acme.dev:2222/a/c.git"),
        ("https://git.acme.dev/a/b.git", "https://else.dev/c.git", "https://else.dev/c.git"),
    ],
)
def test_a_submodules_address_is_as_seen_from_its_repository(base, address, expected):
    assert checkout._resolve_url(address, base) == expected


@given(st.integers(0, 30), st.text(max_size=20), st.sampled_from(["https://a.dev/b/c", "git@a.dev:b/c", "a"]))
def test_any_address_of_a_submodule_comes_to_an_end(steps, name, base):
    assert checkout._resolve_url("../" * steps + name, base).endswith(name)


SSH = """\
Warning: Permanently added 'git.acme.dev' (ED25519) to the list of known hosts.
git@git.acme.dev: Permission denied (publickey).
fatal: Could not read from remote repository.

Please make sure you have the correct access rights
and the repository exists.
"""


def test_the_cause_of_a_failure_over_ssh_is_shown_and_not_gits_last_line():
    message = git._failure_message("git@git.acme.dev:a.git", SSH, None)
    assert "git@git.acme.dev: Permission denied (publickey).; fatal: Could not read from remote repository." in message
    assert message.endswith("the host takes none of your keys: add one there (ssh-add -l lists those of the agent)")
    assert "and the repository exists" not in message


def test_an_unknown_host_is_said_with_what_to_do():
    message = git._failure_message(
        "git@git.acme.dev:a.git", "No ED25519 host key is known\nHost key verification failed.\n", None
    )
    assert "No ED25519 host key is known; Host key verification failed." in message
    assert "connect to it once by hand" in message


@given(st.text(max_size=4000), st.sampled_from(["t0ken-of-somebody", None]))
def test_whatever_git_says_is_bounded_and_shows_no_token(output, token):
    message = git._failure_message("https://git.acme.dev/a.git", f"{output}\n{token}\n{output}", token)
    assert len(message) < 2500
    assert token is None or token not in message


def test_files_in_git_lfs_are_found_by_their_text(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "models" / "b.bin").write_text("x" * 200)
    (tmp_path / "link").symlink_to("models/a.bin")
    assert checkout.find_pointers(tmp_path) == ["models/a.bin"]
