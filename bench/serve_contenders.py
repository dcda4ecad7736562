"""The servers that bench/serve.py measures `vitrail serve` against, each as its documentation shows it.

    python bench/serve_contenders.py {naive,fastapi,litserve} MODEL.onnx PORT THREADS

naive: FastAPI, an uploaded file, Pillow, and a timm model in torch in the handler; weights are random.
fastapi: FastAPI, the body as it is, our decoder and ONNX Runtime, in FastAPI's pool of threads.
litserve: LitServe with the same decoder and ONNX Runtime, batches of at most 8 that wait for nothing.

They need a Python of their own, with fastapi, python-multipart, uvicorn, litserve, torch, torchvision, timm,
onnxruntime, numpy, pillow and jaxtyping, and src/ on the path.
"""

import argparse
import base64
import io
from typing import Any

import numpy as np

from vitrail.predictor.exported import ExportedPredictor
from vitrail.predictor.exported_file import read_exported

try:
    from litserve import LitAPI
except ImportError:
    LitAPI = object
MAX_BATCH = 8


def naive(path: str, port: int, threads: int) -> None:
    import torch
    import uvicorn
    from fastapi import FastAPI, File, UploadFile
    from PIL import Image

    # The published wheel of torchvision beside a CPU build of torch: see tests/support/torchvision_operators.py.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in ("nms(Tensor dets, Tensor scores, float t) -> Tensor", "qnms(Tensor d, Tensor s, float t) -> Tensor"):
        library.define(schema)
    from timm.models.vision_transformer import VisionTransformer

    torch.set_num_threads(threads)
    about = read_exported(path)[1]
    shape, side = about.geometry, about.preprocessing.image_size[0]
    model = VisionTransformer(
        img_size=side, patch_size=shape["patch_size"], embed_dim=shape["hidden_size"], num_classes=about.num_labels,
        depth=shape["num_hidden_layers"], num_heads=shape["num_attention_heads"],
    ).eval()  # fmt: skip
    mean, std = (torch.tensor(values)[:, None, None] for values in (about.preprocessing.mean, about.preprocessing.std))
    app = FastAPI()

    @app.post("/predict")
    async def predict(file: UploadFile = File(...)) -> Any:  # noqa: B008
        image = Image.open(io.BytesIO(await file.read())).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            probabilities = model(((pixels - mean) / std)[None]).softmax(1)[0]
        best = probabilities.topk(5)
        return [
            {"label": about.labels[i], "probability": p}
            for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def fastapi(path: str, port: int, threads: int) -> None:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    predictor = ExportedPredictor(path, threads=threads)
    app = FastAPI()

    def work(body: bytes) -> Any:
        (found,) = predictor(body)
        return [{"label": one.label, "probability": one.probability} for one in found.top]

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        return await run_in_threadpool(work, await request.body())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


class Api(LitAPI):
    """LitServe sends it to its worker, so it stands here.

    Args:
        path: of the model.
        threads: of the engine.
    """

    def __init__(self, path: str, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.0)
        self.path, self.threads = path, threads

    def setup(self, device: str) -> None:
        self.predictor = ExportedPredictor(self.path, threads=self.threads)

    def decode_request(self, request):  # LitServe takes an annotation for a parameter of the query
        return self.predictor.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.predictor.ranked(self.predictor.outputs(x))

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return [{"label": one.label, "probability": one.probability} for one in output.top]


def litserve(path: str, port: int, threads: int) -> None:
    from litserve import LitServer

    server = LitServer(Api(path, threads), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=("naive", "fastapi", "litserve"))
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("threads", type=int)
    args = parser.parse_args()
    {"naive": naive, "fastapi": fastapi, "litserve": litserve}[args.contender](args.model, args.port, args.threads)
