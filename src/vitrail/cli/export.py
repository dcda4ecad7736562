"""Write a model as one file that predicts without torch, compared with the model before it gets its name.

The file holds the classes, the preprocessing, the temperature and the thresholds of "unknown". `vitrail predict` and
`vitrail serve` take it; docs/export.md describes it for other programs, and the kinds for other libraries: a folder for
transformers, transformers.js and optimum (hf), OpenVINO's two files, a program of torch.export, a repository of Triton.
"""

import argparse

from vitrail.cli.answer import Answer
from vitrail.cli.engines import add_precision_option
from vitrail.cli.values import add_size_option
from vitrail.errors import ConfigError, shell_word
from vitrail.exporting.targets import KINDS
from vitrail.terminal import say

_LEAST_SAMPLES = 32
_USE = {
    "onnx": "vitrail predict {path} IMAGE ...",
    "hf": 'transformers.pipeline("image-classification", "{path}"), or the same in transformers.js; docs/export.md',
    "openvino": "openvino.Core().compile_model, docs/export.md",
    "torch": "torch.export.load({text}).module(); docs/export.md",
    "triton": "tritonserver --model-repository {path}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what export takes."""
    parser.add_argument("model", metavar="MODEL", help="a run directory, a model file, or other weights")
    parser.add_argument("--to", choices=KINDS, default="onnx", help="the kind of file or folder (default: onnx)")
    parser.add_argument(
        "--out", metavar="PATH",
        help="a file (onnx, torch) or a new folder; default: the model's name with .onnx, .pt2, -hf, -openvino or "
        "-triton, in this folder",
    )  # fmt: skip
    parser.add_argument(
        "--form",
        choices=("image", "tensor"),
        help="what the file takes: image: uint8 pixels at the model's decode size; tensor: normalised fp32 "
        "(default: image; of hf: tensor)",
    )
    add_precision_option(
        parser,
        ("fp32", "fp16", "int8"),
        "fp16: half the size, for GPUs and browsers; int8: a quarter of the size, faster on CPUs; neither is exact "
        "(default: fp32)",
    )
    parser.add_argument(
        "--merge", type=int, default=0, metavar="R",
        help="merge R similar tokens in each layer (ToMe): faster, not exact (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--opset", type=int, choices=(17, 20), default=20, help="version of the operators; 17 for older readers "
        "(default: 20)",
    )  # fmt: skip
    add_size_option(parser, "another size of the input")
    compared = parser.add_argument_group("what the file is compared on")
    compared.add_argument("--images", nargs="+", metavar="PATH", help="image files or folders, of whatever classes")
    compared.add_argument("--data", metavar="SPEC", help="labelled images (default: the model's own, val or test)")
    compared.add_argument("--data-root", metavar="DIR", help="where named data sets are")
    compared.add_argument("--split", choices=("val", "test", "all"), help="of --data (default: test, or all)")
    compared.add_argument("--samples", type=int, default=256, metavar="N", help="at most (default: 256)")
    compared.add_argument(
        "--min-agreement", type=float, default=0.98, metavar="SHARE",
        help="least share of equal labels, of int8 and --merge (default: 0.98)",
    )  # fmt: skip
    compared.add_argument(
        "--max-drop", type=float, default=0.005, metavar="SHARE",
        help="largest loss of accuracy, of int8 and --merge (default: 0.005)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write the file even where it answers otherwise")


def run(args: argparse.Namespace) -> Answer:
    """Write the file and say how it compares."""
    if args.samples < _LEAST_SAMPLES:
        raise ConfigError("--samples is too small.", got=args.samples, expected=f"an integer >= {_LEAST_SAMPLES}")
    from vitrail import api
    from vitrail.exporting import ExportOptions

    options = ExportOptions(
        to=args.to,
        form=args.form,
        precision=args.precision or "fp32",
        merge=args.merge,
        opset=args.opset,
        min_agreement=args.min_agreement,
        max_drop=args.max_drop,
        force=args.force,
    )
    found = api.export(
        args.model,
        args.out,
        images=args.images,
        data=args.data,
        split=args.split,
        samples=args.samples,
        image_size=args.image_size,
        data_root=args.data_root,
        options=options,
        progress=True,
        on_note=say,
    )
    parity, accuracy = found.parity, found.accuracy
    agreeing, count = parity["top1"]
    ties = f", {parity['ties']} ties" if parity["ties"] else ""
    lines = [
        f"written to {shell_word(found.path)}: {found.num_bytes / 1e6:.1f} MB, {found.form} form, {found.precision}"
        + (f", {len(found.files)} files" if len(found.files) > 1 else ""),
        f"compared with the model on {count} images ({parity['source']}): {agreeing} equal labels{ties}, logits within "
        f"{parity['max_logit_difference']:.1e} of the largest, probabilities within "
        f"{parity['max_probability_difference']:.1e}",
    ]
    if accuracy:
        lines.append(
            f"right answers: {accuracy['correct_exported']} of {accuracy['n']}; the model's: "
            f"{accuracy['correct_reference']}"
        )
    if not parity["passed"]:
        lines.append("THIS FILE DIFFERS FROM THE MODEL; it was written because of --force")
    lines += [f"note: {note}" for note in found.notes]
    lines.append(f"Use it with: {_USE[found.to].format(path=shell_word(found.path), text=repr(str(found.path)))}")
    return Answer(lines, found.to_json())
