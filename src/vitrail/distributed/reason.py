"""Why a run of several processes ends: written down once, by the first process to know, and read by the others."""

import contextlib
import faulthandler
import json
import os
import sys
import traceback
from typing import Any

import torch.distributed as dist

from vitrail.errors import RankLost, VitrailError
from vitrail.terminal import say

RESUME = "What was saved is intact: go on with --resume."
_KEY = "reason"


def record_reason(store: dist.Store, rank: int, error: BaseException) -> None:
    """Write down why this process ends. Where another one did so before, this one has nothing to tell the user."""
    text = str(error) if isinstance(error, VitrailError) else "".join(traceback.format_exception_only(error))
    reason = {"rank": rank, "status": getattr(error, "exit_status", 1), "text": text}
    with contextlib.suppress(RuntimeError, ValueError):
        first = json.loads(store.compare_set(_KEY, "", json.dumps(reason)))
        if isinstance(error, VitrailError):
            error.is_shown_elsewhere = first["rank"] != rank


def read_reason(store: dist.Store, rank: int) -> VitrailError | None:
    """Why the run ends, if a process has written it down."""
    if not store.check([_KEY]):
        return None
    reason: dict[str, Any] = json.loads(store.get(_KEY))
    error = RankLost(f"rank {reason['rank']} ended: {' '.join(reason['text'].split())}")
    error.exit_status = reason["status"]
    error.is_shown_elsewhere = reason["rank"] != rank
    return error


def end_process(error: VitrailError) -> None:
    """Say where every thread stands and leave at once: the main thread may wait in a call that never returns."""
    try:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if not error.is_shown_elsewhere:
            say(error)
        sys.stderr.flush()
    finally:
        os._exit(error.exit_status)
