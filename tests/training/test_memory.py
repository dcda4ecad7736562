"""Memory of a run: as much after ten epochs as after two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Allocators settle in the first epochs and take a few MiB more now and then; keeping each step's input would take
# 17 MiB an epoch, 136 in all.
GROWTH_MIB = 20
RUN = """
import json, os, sys
from dataclasses import replace
import vitrail
from vitrail.training import keeping

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

seen, original = [], keeping.evaluate

def evaluate(*args, **options):
    result = original(*args, **options)
    seen.append(resident_mib())
    return result

keeping.evaluate = evaluate
config = vitrail.recipes.get("digits")
config = replace(
    config,
    model=replace(config.model, hidden_size=32, num_attention_heads=2, num_hidden_layers=2),
    schedule=replace(config.schedule, epochs=10, min_steps=0),
    data=replace(config.data, image_size=32),
    augment=replace(config.augment, rotation=10.0),
    evaluation=replace(config.evaluation, every_epochs=1),
)
vitrail.train(config, sys.argv[1])
print(json.dumps(seen))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_over_epochs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "run")], capture_output=True, text=True, check=False, timeout=110
    )
    assert not done.returncode, done.stderr
    resident = json.loads(done.stdout.splitlines()[-1])
    assert len(resident) == 10
    assert resident[9] - resident[1] < GROWTH_MIB, resident
