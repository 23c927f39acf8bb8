"""The number of processes follows from the CPUs of the container."""

import pytest

from mcpfleet_server.hosting.runner import count_cpus


@pytest.mark.parametrize(
    ("files", "runnable", "cpus"),
    [
        ({}, 4, 4),
        ({"cpu.max": "max 100000\n"}, 4, 4),
        ({"cpu.max": "100000 100000\n"}, 4, 1),
        ({"cpu.max": "250000 100000\n"}, 4, 2),
        ({"cpu.max": "50000 100000\n"}, 4, 1),
        ({"cpu.max": "800000 100000\n"}, 4, 4),
        ({"cpu.max": "broken"}, 3, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4, 4),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4, 2),
    ],
)
def test_one_process_runs_per_whole_cpu(tmp_path, files, runnable, cpus):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_cpus(tmp_path, runnable) == cpus
