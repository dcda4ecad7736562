"""An exported model in Ray Serve.

pip install 'ray[serve]'
MODEL=mine.onnx serve run ray_serve:app
curl --data-binary @photo.jpg http://127.0.0.1:8000/
"""

import asyncio
import os

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import vitrail


@serve.deployment(num_replicas=2, max_ongoing_requests=4, max_queued_requests=100, ray_actor_options={"num_cpus": 1})
class Classifier:
    """Image files to their classes."""

    def __init__(self, model: str) -> None:
        self.predictor = vitrail.ExportedPredictor(model, threads=1)

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            prediction = (await asyncio.to_thread(self.predictor, await request.body()))[0]
        except vitrail.ImageError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({"label": prediction.label, "probability": prediction.probability})


app = Classifier.bind(os.path.abspath(os.environ["MODEL"]))
