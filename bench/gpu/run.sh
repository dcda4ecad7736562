#!/usr/bin/env bash
# What is still unmeasured on a GPU, in pieces of under nine minutes that run unattended.
#
#   PYTHONPATH=src VITRAIL_DATA=... bench/gpu/run.sh PIECE
#
#   all-pieces list them, one a line, in a sensible order
#   b16, small192, small384    throughput.py: training and inference, compiled or not, batches, beside peers
#   input      augmentation and data wait on the device
#   finite     finite_check.py: what each step's wait for "was the gradient finite" costs
#   determinism    the same run twice, and resumed: how far the weights differ
#   tests      the tests marked gpu
#   speed      bench/reference_scratch.py: our step beside the reference written plainly
#   reference  reference-scratch, 5 epochs (the reference system: 51.66 %)
#   cifar10    the recipe cifar10 in full
#   finetune   the builtin weights on CIFAR-10, recipe finetune: accuracy and images/s
#   finetune-b16   reference-finetune of a B/16 at 224 on CIFAR-10: images/s and time of an epoch. WEIGHTS names
#              the weights; without it, random ones with their audit, for the speed alone (300 steps)
#
# A training piece that is not done after eight minutes saves and ends with status 143; the same command goes on with it.
# Runs are kept in RUNS (default runs/gpu), the answer of each piece in bench/results/gpu-PIECE.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
pieces=(tests determinism finite input b16 small192 small384 speed cifar10 reference finetune finetune-b16)
piece=${1:?all-pieces, or one of ${pieces[*]}}
if [[ $piece == all-pieces ]]; then printf '%s\n' "${pieces[@]}"; exit; fi
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

finetune() {  # weights, recipe, name, settings: start it, or go on with it
    local arguments=("$1" --data cifar10 --recipe "$2" --run "$runs/$3" --json "${@:4}")
    [[ -e "$runs/$3/config.json" ]] && arguments+=(--resume)
    timeout --signal=TERM 480 "$python" -m vitrail finetune "${arguments[@]}" >"$results/gpu-$3.json"
    cp "$runs/$3/environment.json" "$results/gpu-$3-environment.json"
    cat "$results/gpu-$3.json"
}

random_b16() {  # a vitrail file of a B/16 with 1,000 classes, as vit-base-patch16-224 has
    "$python" - "$1" <<'PYTHON'
import sys
import torch
import vitrail
from vitrail.weights import Card
torch.manual_seed(0)
model = vitrail.ViT(vitrail.ViTConfig.named("B/16", num_labels=1000))
card = Card(geometry=model.config, classes=(), preprocessing=vitrail.Preprocessing(image_size=(224, 224), decode_size=(224, 224)))
vitrail.save(sys.argv[1], model, card)
PYTHON
}

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
case $piece in
    b16|small192|small384) OUT=$results timeout 530 "$python" bench/gpu/throughput.py "$piece" ;;
    input) OUT=$results timeout 480 "$python" bench/gpu/input.py ;;
    finite) OUT=$results timeout 480 "$python" bench/gpu/finite_check.py ;;
    determinism) OUT=$results timeout 480 "$python" bench/gpu/determinism.py ;;
    tests) timeout 480 "$python" -m pytest -q -m gpu ;;
    speed) timeout 480 "$python" bench/reference_scratch.py --device cuda --rounds 5 --seconds 20 ;;
    reference) train reference-scratch reference-scratch ;;
    cifar10) train cifar10 cifar10 ;;
    finetune) finetune builtin:cifar100-conv finetune finetune-builtin ;;
    finetune-b16)
        if [[ -n "${WEIGHTS:-}" ]]; then
            finetune "$WEIGHTS" reference-finetune finetune-b16
        else
            [[ -e "$runs/b16.safetensors" ]] || random_b16 "$runs/b16.safetensors"
            finetune "$runs/b16.safetensors" reference-finetune finetune-b16-random --schedule.max-steps 300
        fi ;;
    *) echo "no piece '$piece': all-pieces, or one of ${pieces[*]}" >&2; exit 2 ;;
esac
