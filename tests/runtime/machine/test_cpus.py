"""How many CPUs a process may use, read from control groups of both versions."""

from __future__ import annotations

import os

import pytest

from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.machine import cpus
from ttt_runtime.machine.cpus import CpuWatch, cpu_quota, usable_cpus

V2 = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n"
)


def machine(root, groups, mounts, files):
    for name, text in {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": mounts,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/a/b\n", V2, {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000\n"}, None),
        # The group outside is the tighter one.
        ("0::/a/b\n", V2, {"a/b/cpu.max": "400000 100000", "a/cpu.max": "50000 100000"}, 0.5),
        ("0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2.0),  # a container's own view
        (
            "4:cpu,cpuacct:/x\n3:memory:/y\n0::/z\n",
            V1,
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "25000", "cpu,cpuacct/x/cpu.cfs_period_us": "10000"},
            2.5,
        ),
        (
            "4:cpu,cpuacct:/x\n",
            V1,
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            None,
        ),
        # A container that sees its group's folder as the root of the mount.
        (
            "0::/docker/7\n",
            V2.replace("0:26 / ", "0:26 /docker/7 "),
            {"cpu.max": "100000 100000"},
            1.0,
        ),
        ("0::/../up\n", V2, {"cpu.max": "100000 100000"}, 1.0),  # a group outside of the mount
        ("0::/a\n", V2, {"a/cpu.max": "what ever"}, None),
        ("0::/a\n", V2, {"a/cpu.max": "1 0"}, None),
        ("", "", {}, None),
    ],
)
def test_quotas_of_nested_groups(tmp_path, groups, mounts, files, quota):
    assert cpu_quota(machine(tmp_path, groups, mounts, files)) == quota


@pytest.mark.parametrize(("quota", "usable"), [(50, 1), (100, 1), (150, 2), (300, 3), (900, 4)])
def test_a_quota_is_rounded_up_and_never_above_the_cpus(tmp_path, monkeypatch, quota, usable):
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: 4)
    root = machine(tmp_path, "0::/a\n", V2, {"a/cpu.max": f"{quota}000 100000"})
    assert usable_cpus(root) == usable


def test_a_quota_that_changes_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: 8)
    root = machine(tmp_path, "0::/a\n", V2, {"a/cpu.max": "max 100000"})
    watch = CpuWatch(root, every_s=0)
    assert watch.is_due()
    assert watch.usable() == 8
    (root / "sys/fs/cgroup/a/cpu.max").write_text("250000 100000")
    assert watch.is_due()
    assert watch.usable() == 3
    slow = CpuWatch(root, every_s=3600)
    slow.usable()
    assert not slow.is_due()


def test_more_threads_than_cpus_are_not_made():
    """`--threads 1024` on two CPUs did not end within a minute."""
    have = len(os.sched_getaffinity(0))
    assert SessionSettings("cpu", 1024).thread_count == have
    assert SessionSettings("cpu", 1).thread_count == 1
    assert 1 <= SessionSettings("cpu").thread_count <= have
