"""`vitrail serve` beside FastAPI and LitServe: requests a second in closed loops, latency, memory, time to ready.

    python bench/serve.py --contenders VENV/bin/python [--rounds 5] [--seconds 5] [--works small b16 b16-int8 large]

Works: `small`, the ViT in the package on PNG files of 32 pixels; `b16` and `b16-int8`, a ViT-B/16 with random weights
on JPEG files of 224 pixels; `large`, the int8 model on JPEG files of 12 megapixels. All servers of a work run at the
same time and take turns; those whose turn it is not are stopped (SIGSTOP). A turn is one closed loop of hey (Debian
package `hey`) with 1, 4, 8 or 32 clients for some seconds, after one second that is not counted. `in process` is the
same file decoded and classified in this process, one after the other. At the end `vitrail serve` gets twenty times the
requests that it answered at most. Medians over the rounds. About half an hour on
two quiet cores. bench/serve_contenders.py says what the contenders' Python needs.
"""

import argparse
import base64
import contextlib
import csv
import io
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results_file import Results

from vitrail import weights
from vitrail.config import Preprocessing, ViTConfig
from vitrail.exporting import synthetic_photographs
from vitrail.exporting.onnx_file import built, metadata
from vitrail.model import ViT
from vitrail.predictor.exported import ExportedPredictor
from vitrail.runtime.cores import available_cores

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = (1, 4, 8, 32)
CONTENDERS = ("naive", "fastapi", "litserve")
OURS, ALONE = "vitrail serve", "in process"
BOUNDARY = "boundary-of-the-form"
SECONDS_TO_START = 120
OVERLOAD, OVERLOADING = 20, 100
"""Times the peak, by so many clients."""


@dataclass
class Server:
    """A contender that runs, and how it is asked."""

    name: str
    process: "subprocess.Popen[bytes]"
    url: str
    content_type: str
    body: Path
    seconds_to_ready: float

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The process and everything below it."""
        found, new = list[int](), [self.process.pid]
        while new:
            pid = new.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    new += [int(word) for word in (task / "children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def memory_mb(self) -> float:
        """Proportional set size of all of them."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total * 1024 / 1e6


def exported(work: str, folder: Path) -> Path:
    """The model of a work."""
    if work == "small":
        model, card = weights.load("builtin:cifar100")
    else:
        torch.manual_seed(0)
        config = ViTConfig.named("B/16", num_labels=1000)
        size = (224, 224)
        preprocessing = Preprocessing(image_size=size, decode_size=size, fast_decoding=work == "large")
        card = weights.Card(
            geometry=config, classes=tuple(f"class {i}" for i in range(1000)), preprocessing=preprocessing
        )
        model = ViT(config).eval()
    precision = "fp32" if work in ("small", "b16") else "int8"
    graph, description = built(model, card, form="image", precision=precision, merge=0, opset=20)
    path = folder / f"{work}.onnx"
    path.write_bytes(graph + metadata(replace(description, parity={"passed": True})))
    return path


def image(work: str) -> bytes:
    """The file that is sent."""
    photograph = Image.open(io.BytesIO(synthetic_photographs(1)[0])).convert("RGB")
    size = {"small": (32, 32), "large": (4000, 3000)}.get(work, (224, 224))
    buffer = io.BytesIO()
    photograph.resize(size).save(buffer, "PNG" if work == "small" else "JPEG", quality=90)
    return buffer.getvalue()


def bodies(data: bytes, folder: Path) -> dict[str, tuple[str, Path]]:
    """Content type and body for each contender."""
    form = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    ).encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()  # fmt: skip
    found = {
        "plain": ("application/octet-stream", data),
        "form": (f"multipart/form-data; boundary={BOUNDARY}", form),
        "json": ("application/json", json.dumps({"image": base64.b64encode(data).decode()}).encode()),
    }
    for name, (_, content) in found.items():
        (folder / name).write_bytes(content)
    kinds = {"naive": "form", "litserve": "json"}
    return {
        name: (found[kinds.get(name, "plain")][0], folder / kinds.get(name, "plain")) for name in (OURS, *CONTENDERS)
    }


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, asked: tuple[str, Path]) -> Iterator[Server]:
    """A server, once it answers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": str(available_cores())}
    begun = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        server = Server(name, process, f"http://127.0.0.1:{port}/predict", *asked, 0.0)
        try:
            while True:
                with contextlib.suppress(ConnectionError, urllib.error.URLError):
                    request = urllib.request.Request(
                        server.url, server.body.read_bytes(), {"Content-Type": server.content_type}
                    )
                    try:
                        urllib.request.urlopen(request, timeout=60).read()
                    except urllib.error.HTTPError as error:
                        raise RuntimeError(f"{name}: {error} {error.read()[:500]!r}") from error
                    break
                if process.poll() is not None or time.monotonic() - begun > SECONDS_TO_START:
                    log.seek(0)
                    raise RuntimeError(f"{name} does not start: {log.read()[-2000:].decode()}")
                time.sleep(0.02)
            server.seconds_to_ready = time.monotonic() - begun
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def hey(server: Server, clients: int, seconds: float) -> dict[str, float]:
    """One turn: requests a second, latency in ms, CPU seconds of the server for 1,000 requests."""
    words = ["-c", str(clients), "-m", "POST", "-T", server.content_type, "-D", str(server.body), server.url]
    subprocess.run(["hey", "-z", "1s", *words], capture_output=True, check=True)
    cpu, begun = server.cpu_seconds(), time.monotonic()
    done = subprocess.run(["hey", "-z", f"{seconds}s", "-o", "csv", *words], capture_output=True, text=True, check=True)
    taken, cpu = time.monotonic() - begun, server.cpu_seconds() - cpu
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    good = [float(row["response-time"]) for row in rows if row["status-code"] == "200"]
    if any(row["status-code"] not in ("200", "503") for row in rows):
        raise RuntimeError(f"{server.name} answers otherwise: {done.stdout[:300]}")
    good = good or [seconds]  # nothing was answered in time
    return {
        "rate": sum(row["status-code"] == "200" for row in rows) / taken, "median_ms": statistics.median(good) * 1e3,
        "p99_ms": float(np.quantile(good, 0.99)) * 1e3, "refused": len(rows) - len(good),
        "cpu_s_per_1000": 1000 * cpu / max(1, len(rows)),
    }  # fmt: skip


def overload(server: Server, peak: float, seconds: float) -> dict[str, float]:
    """Twenty times as many requests as are answered at most, at a fixed rate: what is answered, refused, and how soon.

    Args:
        peak: requests a second that it answers in a closed loop.
    """
    health, ended = list[float](), threading.Event()
    address = server.url.removesuffix("/predict") + "/readyz"

    def watch() -> None:
        while not ended.is_set():
            begun = time.monotonic()
            urllib.request.urlopen(address, timeout=60).read()
            health.append(time.monotonic() - begun)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    words = ["-c", str(OVERLOADING), "-q", f"{OVERLOAD * peak / OVERLOADING:.3f}", "-m", "POST"]
    words += ["-T", server.content_type, "-D", str(server.body), server.url]
    begun = time.monotonic()
    done = subprocess.run(["hey", "-z", f"{seconds}s", "-o", "csv", *words], capture_output=True, text=True, check=True)
    taken = time.monotonic() - begun
    ended.set()
    watcher.join()
    by_status: dict[str, list[float]] = {"200": [0.0], "503": [0.0]}
    for row in csv.DictReader(io.StringIO(done.stdout)):
        by_status.setdefault(row["status-code"], []).append(float(row["response-time"]))
    return {
        "offered": sum(map(len, by_status.values())) / taken, "goodput": len(by_status["200"]) / taken,
        "goodput_over_peak": len(by_status["200"]) / taken / peak,
        "accepted_p99_ms": float(np.quantile(by_status["200"], 0.99)) * 1e3,
        "refused_p99_ms": float(np.quantile(by_status["503"], 0.99)) * 1e3,
        "health_p99_ms": float(np.quantile(health, 0.99)) * 1e3,
    }  # fmt: skip


def alone(predictor: ExportedPredictor, data: bytes, seconds: float) -> dict[str, float]:
    """The same work in this process."""
    taken, end = list[float](), time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        predictor(data)
        taken.append(time.monotonic() - begun)
    return {"rate": len(taken) / sum(taken), "median_ms": statistics.median(taken) * 1e3}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measured(work: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All contenders on one work."""
    model, data = exported(work, folder), image(work)
    asked, threads = bodies(data, folder), str(available_cores())
    script = str(ROOT / "bench" / "serve_contenders.py")
    commands = {OURS: [sys.executable, "-m", "vitrail", "serve", str(model), "--port"]}
    if args.contenders:
        commands |= {name: [args.contenders, script, name, str(model)] for name in CONTENDERS}
    turns: dict[str, dict[str, list[dict[str, float]]]] = {}
    with contextlib.ExitStack() as stack:
        servers = list[Server]()
        for name, command in commands.items():
            port = free_port()
            command = [*command, str(port), *([] if name == OURS else [threads])]
            servers.append(stack.enter_context(running(name, command, port, asked[name])))
            servers[-1].stop()
        predictor = ExportedPredictor(model)
        for number in range(args.rounds):
            turns.setdefault(ALONE, {}).setdefault("1", []).append(alone(predictor, data, args.seconds))
            for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                server.go_on()
                for clients in CLIENTS:
                    found = turns.setdefault(server.name, {}).setdefault(str(clients), [])
                    found.append(hey(server, clients, args.seconds))
                server.stop()
        servers[0].go_on()
        peak = max(statistics.median(one["rate"] for one in found) for found in turns[OURS].values())
        overloaded = overload(servers[0], peak, 4 * args.seconds)
        more = {
            one.name: {"seconds_to_ready": round(one.seconds_to_ready, 2), "memory_mb": round(one.memory_mb(), 1)}
            for one in servers
        }
    return {"turns": turns, "overload": overloaded, "servers": more, "body_bytes": len(data), "medians": medians(turns)}


def medians(turns: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """The median of each figure over the rounds."""
    return {
        name: {
            clients: {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
            for clients, rounds in by_clients.items()
        }
        for name, by_clients in turns.items()
    }


def table(work: str, found: dict[str, Any]) -> str:
    """Rates, ratios and latencies for people."""
    medians_of: dict[str, dict[str, dict[str, float]]] = found["medians"]
    base = medians_of[ALONE]["1"]
    lines = [
        f"{work}: {base['rate']:.1f} images/s in process, {base['median_ms']:.2f} ms",
        "| server | "
        + " | ".join(f"{n} clients" for n in CLIENTS)
        + " | ms over in process | CPU s/1,000 | MB | ready s |",
        "|---|" + "---|" * (len(CLIENTS) + 4),
    ]
    for name, by_clients in medians_of.items():
        if name == ALONE:
            continue
        rates = [f"{by_clients[str(n)]['rate']:.1f} ({by_clients[str(n)]['p99_ms']:.0f} ms)" for n in CLIENTS]
        over = by_clients["1"]["median_ms"] - base["median_ms"]
        more = found["servers"][name]
        cpu = by_clients[str(CLIENTS[-1])]["cpu_s_per_1000"]
        cells = [
            name,
            *rates,
            f"{over:.2f}",
            f"{cpu:.1f}",
            f"{more['memory_mb']:.0f}",
            f"{more['seconds_to_ready']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    ours = medians_of[OURS]
    for name, by_clients in medians_of.items():
        if name in (OURS, ALONE):
            continue
        rates = {n: (ours[str(n)]["rate"], by_clients[str(n)]["rate"]) for n in CLIENTS}
        ratios = [f"{n}: {a / b:.2f}x" if b else f"{n}: it answers nothing" for n, (a, b) in rates.items()]
        lines.append(f"{OURS} over {name}, by clients: {', '.join(ratios)}")
    most = max(found["rate"] for found in ours.values())
    lines.append(f"{OURS} over in process: {100 * most / base['rate']:.0f} %")
    lines.append("at 20 times the peak: " + ", ".join(f"{key} {value:.2f}" for key, value in found["overload"].items()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", metavar="PYTHON", help="that has what the contenders need; none: ours alone")
    parser.add_argument("--works", nargs="+", default=["small", "b16", "b16-int8", "large"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trial", action="store_true", help="leave no file")
    args = parser.parse_args()
    if shutil.which("hey") is None:
        sys.exit("hey is missing: apt-get install hey")
    results = Results("serve", out=args.out, keep=not args.trial)
    for work in args.works:
        with results.part(work) as answer, tempfile.TemporaryDirectory() as folder:
            answer[work] = measured(work, args, Path(folder))
            print(f"\n{table(work, answer[work])}", flush=True)
    results.end()


if __name__ == "__main__":
    main()
