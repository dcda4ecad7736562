"""Two files of OpenVINO, NAME.xml and NAME.bin, made from our ONNX graph in memory.

Beside the network: `vitrail`, the same description that an ONNX file has, as JSON; `model_info`, what OpenVINO's Model
API reads, where labels stand in one line and have no spaces.
"""

import json
from pathlib import Path

from vitrail import fsio
from vitrail.errors import ConfigError, SaveError, install_hint, shown
from vitrail.exporting.onnx_file import description_json
from vitrail.exporting.targets.target import Part, Target
from vitrail.predictor.exported_file import KEY, ExportPrecision
from vitrail.runtime.libraries import openvino


class OpenVino(Target):
    """As Target."""

    engine, suffix, is_folder = "openvino", "-openvino", True

    def begin(self, stage: Path) -> list[str]:
        """Raises ConfigError: OpenVINO is not installed."""
        try:
            openvino()
        except ModuleNotFoundError as error:
            raise ConfigError("OpenVINO is not installed.", do=install_hint("openvino")) from error
        fsio.make_dir(stage)
        return []

    def path(self, stage: Path, precision: ExportPrecision) -> Path:
        del precision
        return stage / f"{self.name}.xml"

    def write(self, path: Path, part: Part) -> None:
        library, description = openvino(), part.description
        network = library.Core().read_model(part.program)
        for key, text in {
            "model_type": "Classification",
            "labels": " ".join("_".join(label.split()) for label in description.labels),
        }.items():
            network.set_rt_info(text, ["model_info", key])
        network.set_rt_info(json.dumps(description_json(description), allow_nan=False), [KEY])  # ASCII
        try:
            library.save_model(network, path, compress_to_fp16=False)
        except RuntimeError as error:
            raise SaveError(f"{shown(path)}: OpenVINO cannot write it.", got=error) from error
        for file in (path, path.with_suffix(".bin")):
            fsio.flush_to_disk(file)
