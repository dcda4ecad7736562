"""The files in examples/deploy name options, addresses and ports that the server has, and their times agree."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitrail.cli import parsed
from vitrail.serving.openapi import document
from vitrail.serving.options import IDLE_SECONDS

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"

IN_THE_CONTAINER = """
import http.client, json, os, signal, subprocess, sys, threading, time
command, health, image = json.loads(sys.argv[1])

def ask(address):
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=60)
    connection.request("POST", address, open(image, "rb").read())
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())

def is_healthy():
    return subprocess.run(health, stderr=subprocess.DEVNULL).returncode == 0

found = {"uid": os.getuid()}
found["writable"] = [place for place in ("/", "/tmp", "/var/tmp", os.getcwd()) if os.access(place, os.W_OK)]
server = subprocess.Popen(command)
for _ in range(400):
    if is_healthy() or server.poll() is not None:
        break
    time.sleep(0.1)
found["predicted"] = ask("/predict")
answers = []
threads = [threading.Thread(target=lambda: answers.append(ask("/explain")[0])) for _ in range(4)]
for thread in threads:
    thread.start()
time.sleep(0.2)
began = time.monotonic()
server.send_signal(signal.SIGTERM)
found["status"], found["seconds"] = server.wait(60), time.monotonic() - began
for thread in threads:
    thread.join()
print(json.dumps({**found, "explained": answers, "healthy": is_healthy()}))
"""


def _text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8").replace("\\\n", " ")


def _words(line: str) -> list[str]:
    """The arguments of vitrail in a command of the image or the unit."""
    words = json.loads(line) if line.startswith("[") else shlex.split(line)
    return words[1:] if words[0].endswith("/vitrail") else words


def _docker(instruction: str) -> list[str]:
    return _words(re.findall(rf"^{instruction}.*?(\[.*\])$", _text("Dockerfile"), re.MULTILINE)[-1])


def _unit() -> dict[str, str]:
    """The settings of the unit, the last of each name; %i is its port."""
    text = _text("vitrail@.service").replace("%i", "8000")
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))


@cache
def _documents(name: str) -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all(_text(name))}


def _pods() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The specification of the pod, and its container, of both clusters."""
    pods = [
        _documents("kubernetes.yaml")["Deployment"]["spec"]["template"]["spec"],
        _documents("kserve.yaml")["InferenceService"]["spec"]["predictor"],
    ]
    return [(pod, pod["containers"][0]) for pod in pods]


def _served(words: list[str]) -> Any:
    """The options of a command line. Raises ConfigError where the program does not have one."""
    args = parsed(words)
    assert args.verb == "serve"
    return args


def _routes() -> set[str]:
    """The addresses that the server describes."""
    return set(document({"name": "mine", "explain": True, "limits": {"max_images": 16}})["paths"])


def test_the_image_takes_its_own_options_and_outlives_its_drain() -> None:
    args = _served([*_docker("ENTRYPOINT"), *_docker("CMD")])
    assert (args.host, args.drain_delay) == ("0.0.0.0", 0)
    assert args.drain < 10, "docker stop kills after 10 s"
    assert f"EXPOSE {args.port}\n" in _text("Dockerfile")
    assert re.search(r"^USER 10001:10001$", _text("Dockerfile"), re.MULTILINE)
    asked = re.search(r"HTTPConnection\('127.0.0.1', (\d+), .*'GET', '(/\w+)'", _text("Dockerfile"))
    assert asked is not None
    assert (int(asked[1]), asked[2]) == (args.port, "/readyz")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_the_image_runs_as_nobody_without_a_network_from_a_read_only_root(model_file: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (40, 30), "green").save(image)
    command = [sys.executable, "-m", "vitrail", *_docker("ENTRYPOINT"), *_docker("CMD")]
    command[command.index("/opt/vitrail/model.onnx")] = "/tmp/model.onnx"
    asked = json.dumps([command, [sys.executable, *_docker("HEALTHCHECK")[1:]], "/tmp/image.png"])
    confined = shlex.split(
        "bwrap --unshare-all --uid 10001 --gid 10001 --cap-drop ALL --die-with-parent --new-session --chdir /"
        " --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp"
    )
    files = ["--ro-bind", str(model_file), "/tmp/model.onnx", "--ro-bind", str(image), "/tmp/image.png"]
    done = subprocess.run(
        [*confined, *files, "--remount-ro", "/tmp", sys.executable, "-c", IN_THE_CONTAINER, asked],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "JAXTYPING_DISABLE": "1"},
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["uid"], found["writable"]) == (10001, [])
    assert found["predicted"][0] == 200
    assert found["predicted"][1]["predictions"][0]["top"]
    assert found["explained"] == [200] * 4, "accepted before SIGTERM"
    assert found["status"] == 0
    assert found["seconds"] < _served([*_docker("ENTRYPOINT"), *_docker("CMD")]).drain + 2
    assert not found["healthy"]


def test_the_image_has_the_versions_that_are_tested() -> None:
    pins = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    }
    held = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE))
    assert {"numpy", "onnxruntime", "pillow", "starlette", "uvicorn", "h11", "prometheus-client"} <= set(held)
    assert {name: version for name, version in held.items() if pins.get(name) != version} == {}


def test_the_unit_takes_its_options_and_outlives_its_drain() -> None:
    unit = _unit()
    args = _served(_words(unit["ExecStart"]))
    assert args.port == 8000
    assert int(unit["TimeoutStopSec"]) > args.drain + args.drain_delay
    assert int(unit["LimitNOFILE"]) > args.max_connections + 320
    assert f":{args.port}/readyz" in unit["ExecStartPost"]
    assert args.token_file == "%d/token"
    assert unit["LoadCredential"].startswith("token:")


@pytest.mark.parametrize(("pod", "container"), _pods(), ids=["kubernetes", "kserve"])
def test_a_pod_takes_its_options_and_outlives_its_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    args = _served([*_docker("ENTRYPOINT"), *container["args"]])
    assert args.drain_delay > 0, "a pod is sent requests for a while after SIGTERM"
    assert pod["terminationGracePeriodSeconds"] > args.drain + args.drain_delay
    assert [one["containerPort"] for one in container["ports"]] == [args.port]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not pod["automountServiceAccountToken"]
    probes = [container[name]["httpGet"] for name in container if name.endswith("Probe")]
    assert len(probes) >= 2
    assert {probe["path"] for probe in probes} <= {one for one in _routes() if one.endswith(("z", "/ready", "/live"))}
    assert {probe["port"] for probe in probes} <= {"http", args.port}


def test_the_cluster_reaches_the_service_and_nothing_else() -> None:
    service, policy = (_documents("kubernetes.yaml")[kind] for kind in ("Service", "NetworkPolicy"))
    deployment = _documents("kubernetes.yaml")["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    name = deployment["metadata"]["name"]
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == _pods()[0][1]["ports"][0]["name"]
    assert policy["spec"]["egress"] == []
    args = _served([*_docker("ENTRYPOINT"), *_pods()[0][1]["args"]])
    assert {name, f"{name}.default.svc"} <= set(args.allow_host)


def test_kserve_asks_for_the_name_that_is_served() -> None:
    service = _documents("kserve.yaml")["InferenceService"]
    args = _served([*_docker("ENTRYPOINT"), *_pods()[1][1]["args"]])
    assert args.name == service["metadata"]["name"]
    assert "/v2/models/{model}/infer" in _routes()
    assert f"/v2/models/{args.name}/infer\n" in _text("kserve.yaml")
    assert {"name": "PROTOCOL", "value": "v2"} in _pods()[1][1]["env"]


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return int(found[1])


def test_nginx_waits_longer_and_takes_no_less_than_the_server() -> None:
    text, unit = _text("nginx.conf"), _served(_words(_unit()["ExecStart"]))
    assert _number(r"client_max_body_size (\d+)m;", text) << 20 >= unit.max_body
    assert _number(r"proxy_read_timeout (\d+)s;", text) > unit.timeout
    assert _number(r"keepalive_timeout (\d+)s;", text) < IDLE_SECONDS
    assert set(re.findall(r"server_name ([\w.]+);", text)) == set(unit.allow_host)
    assert str(unit.port) in re.findall(r"server 127.0.0.1:(\d+)", text)
    assert set(re.findall(r"location = (\S+)", text)) <= _routes()


@pytest.mark.parametrize("name", ["litserve_server.py", "ray_serve.py"])
def test_an_example_is_python_around_public_names(name: str) -> None:
    import vitrail

    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    compile(text, name, "exec")
    used = set(re.findall(r"\bvitrail\.(\w+)", text))
    assert {"ExportedPredictor", "ImageError"} <= used <= set(vitrail.__all__)
