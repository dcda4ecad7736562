"""An exported model in LitServe.

pip install litserve
MODEL=mine.onnx python litserve_server.py
curl --json '{"image": "'$(base64 --wrap=0 photo.jpg)'"}' http://127.0.0.1:8000/predict
"""

import base64
import os

import litserve
from fastapi import HTTPException

import vitrail


class Classifier(litserve.LitAPI):
    """Images in base64 to their classes."""

    def setup(self, device: str) -> None:
        self.predictor = vitrail.ExportedPredictor(os.environ["MODEL"])

    def decode_request(self, request: dict) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, image: bytes) -> vitrail.Prediction:
        try:
            return self.predictor(image)[0]
        except vitrail.ImageError as error:
            raise HTTPException(422, str(error)) from error

    def encode_response(self, prediction: vitrail.Prediction) -> dict:
        return {"label": prediction.label, "probability": prediction.probability}


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", restart_workers=True, max_payload_size=20_000_000)
    server.run(host="127.0.0.1", port=8000, generate_client_file=False)
