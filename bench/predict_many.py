"""Predictions of 120,000 images into a folder: killed, raced, counted; their memory; what reading and writing take.

    .venv/bin/python bench/predict_many.py [--smoke] [--photos FOLDER]

CIFAR-10 and CIFAR-100, 60,000 images each, as tars of PNGs and as Parquet, and a small random ViT. For each form: one
call that nothing happens to; then two workers on the same folder, of which one is killed (SIGKILL) at a random moment,
twenty times. Both folders must hold equal rows, each image once, and both forms the same answers. Peak memory of calls
on 10,000 and on 120,000 images. Then a random ViT of the size S/14 at 98 pixels, in one thread, on 500 images: time of
reading, decoding, computing and writing, each alone, and of all of it together; with --photos also on 200 files of
that folder. About fifteen minutes on two cores. Out: bench/results/predict_many.json. Linux; VITRAIL_DATA has CIFAR.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results_file import save

import vitrail
from tests.support.random_vit import random_vit
from vitrail.batch_prediction import Job, do_parts, find_units
from vitrail.batch_prediction.parts import write_part
from vitrail.batch_prediction.units import Row
from vitrail.config import DataConfig
from vitrail.data import open_source
from vitrail.predictor import BatchPredictor

A_TAR, A_FILE, A_GROUP = 2000, 20_000, 1000
KILLS, WAIT_S = 20, (0.5, 9.0)
SMALL = dict(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_labels=10)
S14 = dict(image_size=98, patch_size=14, hidden_size=384, num_hidden_layers=12, num_attention_heads=6, num_labels=100)


def images(limit: int) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each image."""
    for name in ("cifar10", "cifar100"):
        for split, content in open_source(DataConfig(spec=name)).splits.items():
            for number, record in enumerate(content.read(np.arange(min(limit, len(content))))):
                assert isinstance(record, bytes)
                yield f"{name}-{split}-{number:05d}", record


def write_inputs(folder: Path, limit: int) -> dict[str, Path]:
    """The same images as tars and as Parquet."""
    everything = list(images(limit))
    tars, tables = folder / "tars", folder / "parquet"
    tars.mkdir()
    tables.mkdir()
    for number, start in enumerate(range(0, len(everything), A_TAR)):
        with tarfile.open(tars / f"shard-{number:03d}.tar", "w") as archive:
            for name, png in everything[start : start + A_TAR]:
                member = tarfile.TarInfo(f"{name}.png")
                member.size = len(png)
                archive.addfile(member, io.BytesIO(png))
    for number, start in enumerate(range(0, len(everything), A_FILE)):
        rows = [{"bytes": png, "path": name} for name, png in everything[start : start + A_FILE]]
        pq.write_table(pa.table({"image": rows}), tables / f"part-{number:02d}.parquet", row_group_size=A_GROUP)
    return {"tars": tars, "parquet": tables}


def write_model(path: Path, geometry: dict[str, int]) -> Path:
    vit = random_vit(**geometry)
    size = geometry["image_size"]
    steps = vitrail.Preprocessing(image_size=(size, size), decode_size=(size, size))
    names = tuple(f"class {number}" for number in range(geometry["num_labels"]))
    vitrail.save(path, vit, vitrail.Card(geometry=vit.config, preprocessing=steps, classes=names))
    return path


def command(model: Path, source: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "vitrail", "predict", str(model), str(source), "-o", str(out), "--json", *more]


PEAK = """
import sys
from vitrail.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak.split()[1], file=sys.stderr)
sys.exit(status)
"""


def finished(words: list[str]) -> tuple[dict[str, Any], float, float]:
    """The answer of a call, its peak memory in MiB and its seconds."""
    start = time.perf_counter()
    fresh = [sys.executable, "-c", PEAK, *words[3:]]
    done = subprocess.run(fresh, capture_output=True, text=True, env=environment(), check=True)
    return json.loads(done.stdout), int(done.stderr.split()[-1]) / 1024, time.perf_counter() - start


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def killed_and_raced(words: list[str], out: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Two workers at a time; one of them is killed at a random moment, again and again; then both may finish."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())

    workers, num_killed, parts_at = [start(), start()], 0, list[int]()
    while num_killed < kills:
        time.sleep(chance.uniform(*WAIT_S))
        which = chance.randrange(2)
        if workers[which].poll() is None:
            workers[which].send_signal(signal.SIGKILL)
            num_killed += 1
            parts_at.append(len(list(out.glob("part-*"))))
        workers[which].wait()
        workers[which] = start()
    statuses = [worker.wait() for worker in workers]
    assert statuses == [0, 0], statuses
    leftovers = [path.name for path in out.iterdir() if ".tmp-" in path.name and "part" in path.name]
    return {"kills": num_killed, "parts_at_each_kill": parts_at, "temporary_files_left": len(leftovers)}


def answers_in(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*.parquet")))


def robustness(model: Path, inputs: dict[str, Path], folder: Path, kills: int) -> dict[str, Any]:
    chance, found, answers = random.Random(0), dict[str, Any](), dict[str, pa.Table]()
    for form, source in inputs.items():
        whole, hurt = folder / f"whole-{form}", folder / f"hurt-{form}"
        answer, memory, seconds = finished(command(model, source, whole))
        told = killed_and_raced(command(model, source, hurt), hurt, kills, chance)
        one, other = answers_in(whole), answers_in(hurt)
        unique = len(set(zip(one["shard"].to_pylist(), one["row"].to_pylist(), strict=True)))
        names = [sorted(path.name for path in place.glob("part-*")) for place in (whole, hurt)]
        answers[form] = one
        found[form] = {
            **told,
            "images": answer["total"]["rows"],
            "parts": answer["parts"]["of"],
            "rows": len(other),
            "rows_once": unique == len(one) == len(other) == answer["total"]["rows"],
            "rows_equal": one.equals(other) and names[0] == names[1],
            "bytes_equal": all((whole / name).read_bytes() == (hurt / name).read_bytes() for name in names[0]),
            "seconds_alone": round(seconds, 1),
            "peak_mib": round(memory),
        }
        print(form, found[form], flush=True)
    tables = list(answers.values())
    same = all(tables[0][name].equals(tables[1][name]) for name in ("label", "score", "error"))
    return {**found, "tars_and_parquet_give_the_same_answers": same}


def memory_of_fewer(model: Path, inputs: dict[str, Path], folder: Path) -> dict[str, Any]:
    """The peak of a call on the first 10,000 images."""
    few = folder / "few-tars"
    few.mkdir()
    for path in sorted(inputs["tars"].iterdir())[: 10_000 // A_TAR]:
        (few / path.name).symlink_to(path)
    answer, memory, _ = finished(command(model, few, folder / "few-out"))
    return {"images": answer["total"]["rows"], "peak_mib": round(memory)}


def shares(model: Path, source: Path, folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds an image of each step alone, of all of it together; of labels and of embeddings."""
    torch.set_num_threads(1)
    predictor = BatchPredictor(model, what="embedding", threads=1)
    found = find_units([str(source)], folder / "out")
    (unit,) = found.units
    times = dict[str, float]()

    def timed(name: str, start: float) -> None:
        times[name] = 1000 * (time.perf_counter() - start) / count

    predictor.answers([])  # loads the model
    start = time.perf_counter()
    records = list(unit.records())
    assert len(records) == count
    timed("read", start)
    start = time.perf_counter()
    decoded = [predictor.decode(record.image) for record in records]  # type: ignore[arg-type]
    timed("decode", start)
    start = time.perf_counter()
    answers = predictor.answers(decoded)
    timed("compute", start)
    rows = [Row(record.key, record.row) for record in records]
    start = time.perf_counter()
    write_part(folder / "part.parquet", "parquet", unit.shard, {}, iter([(rows, answers)]))
    timed("write", start)
    start = time.perf_counter()
    job = Job(folder / "out", found, predictor.loaded.about, "parquet")
    do_parts(job, job.parts, predictor)
    timed("together", start)
    return {
        "images": count,
        "ms_an_image": {name: round(value, 3) for name, value in times.items()},
        "read_and_write_of_compute": round((times["read"] + times["write"]) / times["compute"], 4),
        "read_decode_and_write_of_compute": round(
            (times["read"] + times["decode"] + times["write"]) / times["compute"], 4
        ),
        "together_of_compute": round(times["together"] / times["compute"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few images, two kills; writes nothing")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = write_inputs(folder, 500 if args.smoke else 10**9)
        small, large = write_model(folder / "small.safetensors", SMALL), write_model(folder / "s14.safetensors", S14)
        found: dict[str, Any] = {"killed_and_raced": robustness(small, inputs, folder, 2 if args.smoke else KILLS)}
        if not args.smoke:
            found["memory_of_fewer"] = memory_of_fewer(small, inputs, folder)
        count = 64 if args.smoke else 500
        with tarfile.open(folder / "some.tar", "w") as archive:
            for place, (key, png) in enumerate(images(10**9)):
                if place == count:
                    break
                member = tarfile.TarInfo(f"{key}.png")
                member.size = len(png)
                archive.addfile(member, io.BytesIO(png))
        (folder / "cifar").mkdir()
        found["s14_at_98"] = {"tar of CIFAR's PNGs": shares(large, folder / "some.tar", folder / "cifar", count)}
        if args.photos:
            (folder / "photos").mkdir()
            paths = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))[:200]
            for path in paths:
                (folder / "photos" / path.name).symlink_to(path.absolute())
            found["s14_at_98"]["JPEG photographs"] = shares(large, folder / "photos", folder / "cifar2", len(paths))
    print(json.dumps(found, indent=1))
    if not args.smoke:
        save("predict_many", found)


if __name__ == "__main__":
    main()
