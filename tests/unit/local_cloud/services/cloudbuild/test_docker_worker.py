"""Tests of how the worker prepares a source for docker; tests/integration builds it."""

from mcpfleet_local_cloud.services.cloudbuild.worker import _set_content_times


def test_file_times_depend_only_on_the_content(tmp_path):
    """BuildKit takes a file for the one of the last build if name, size and time are the same."""
    for folder, text in (("one", "sunny"), ("two", "rainy"), ("three", "sunny")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "server.py").write_text(text)
        _set_content_times(tmp_path / folder)
    first, two, three = (int((tmp_path / name / "server.py").stat().st_mtime) for name in ("one", "two", "three"))
    assert first == three != two
    assert min(first, two) >= 315_532_800, "zip files know no time before 1980"


def test_the_time_of_a_link_is_not_changed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    modified_at = outside.stat().st_mtime_ns
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to(outside)
    _set_content_times(tmp_path / "source")
    assert outside.stat().st_mtime_ns == modified_at
