from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.commands.setup.versions import Version, parse_version

versions = st.builds(Version, *[st.integers(min_value=0, max_value=999_999)] * 3)


@given(versions, st.sampled_from(["{}", "v{}", "uv {} (abc)", "go version go{} linux/amd64", "v{}-alpha.1+dirty\n"]))
def test_a_version_is_found_in_a_programs_output(version, sentence):
    assert parse_version(sentence.format(version)) == version


@given(versions, versions)
def test_versions_compare_by_number_and_not_by_letter(one, other):
    texts = parse_version(str(one)), parse_version(str(other))
    assert (texts[0] < texts[1]) == (tuple(one) < tuple(other))


@given(st.text())
def test_any_output_yields_a_version_or_none(text):
    found = parse_version(text)
    assert found is None or all(number >= 0 for number in found)


def test_a_missing_patch_number_counts_as_zero():
    assert parse_version("go version go1.26 linux/amd64") == Version(1, 26, 0)


def test_numbers_that_are_no_version_are_skipped():
    assert parse_version("error 127: not found") is None
    assert parse_version("warning: a1.2 is no version; v3.256.0 is") == Version(3, 256, 0)
