"""How many cores this process may use. Source: cgroups, Linux documentation, admin-guide/cgroup-v2 (cpu.max)."""

import math
import os
from pathlib import Path

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu")


def available_cores() -> int:
    """The smaller of its affinity and its container's quota, at least 1; engines would count the host's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores that the control group grants, a fraction perhaps; infinity without a limit."""
    try:
        if _QUOTA_V2.is_file():
            granted, period = _QUOTA_V2.read_text().split()
        else:
            granted = (_QUOTA_V1 / "cpu.cfs_quota_us").read_text()
            period = (_QUOTA_V1 / "cpu.cfs_period_us").read_text()
        return int(granted) / int(period) if int(granted) > 0 else math.inf
    except (OSError, ValueError):  # "max": no limit
        return math.inf
