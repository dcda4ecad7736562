#!/usr/bin/env bash
# What is still unmeasured on a GPU, in pieces of under nine minutes that run unattended.
#
#   PYTHONPATH=src VITRAIL_DATA=... bench/gpu/run.sh PIECE
#
#   tests      the tests marked gpu
#   speed      bench/reference_scratch.py: our step beside the reference written plainly
#   reference  reference-scratch, 5 epochs (the reference system: 51.66 %)
#   cifar10    the recipe cifar10 in full
#
# A training piece that is not done after eight minutes saves and ends with status 143; the same command goes on with it.
# Runs are kept in RUNS (default runs/gpu), the answer of each piece in bench/results/gpu-PIECE.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
piece=${1:?one of tests, speed, reference, cifar10}
runs=${RUNS:-runs/gpu}
results=${OUT:-bench/results}
python=${PYTHON:-python3}
mkdir -p "$runs" "$results"

train() {  # recipe, name: start it, or go on with it
    local arguments=("$1" --run "$runs/$2" --json)
    [[ -e "$runs/$2/config.json" ]] && arguments+=(--resume)
    timeout --signal=TERM 480 "$python" -m vitrail train "${arguments[@]}" >"$results/gpu-$2.json"
    cp "$runs/$2/environment.json" "$results/gpu-$2-environment.json"
    cp "$runs/$2/metrics.jsonl" "$results/gpu-$2-metrics.jsonl"
    cat "$results/gpu-$2.json"
}

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
case $piece in
    tests) timeout 480 "$python" -m pytest -q -m gpu ;;
    speed) timeout 480 "$python" bench/reference_scratch.py --device cuda --rounds 5 --seconds 20 ;;
    reference) train reference-scratch reference-scratch ;;
    cifar10) train cifar10 cifar10 ;;
    *) echo "no piece '$piece': one of tests, speed, reference, cifar10" >&2; exit 2 ;;
esac
