"""Classify images with an exported file and nothing of vitrail: onnxruntime, numpy and pillow are enough.

    python predict_onnx.py model.onnx photo.jpg ...

It reads what docs/export.md describes, for files of the form `image` and `tensor`. What vitrail's own reader does
beyond it: limits for hostile images, damaged colour profiles, formats that Pillow reads in another way.
"""

import io
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageCms, ImageOps


def upright_srgb(path: str, use_profile: bool) -> Image.Image:
    """The first frame, turned as EXIF says, over white where it is transparent, in sRGB."""
    image = Image.open(path)
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if profile and use_profile and image.mode in ("RGB", "CMYK"):
        own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB") or image
    return image.convert("RGB")


def fitted(image: Image.Image, steps: dict) -> np.ndarray:
    """The pixels [height, width, channels] that the model keeps."""
    image = image.convert(steps["channels"])
    height, width = steps["decode_size"]
    resampling = Image.Resampling[steps["resize_filter"].upper()]
    if steps["resize_size"]:  # the whole image is resized, then its centre is cut out at whole pixels
        new_height, new_width = steps["resize_size"]
        if steps["resize_mode"] == "crop":
            side, short = min(steps["resize_size"]), min(image.size)
            new_width, new_height = (side if n == short else int(side * n / short) for n in image.size)
        left, top = (new_width - width) / 2, (new_height - height) / 2
        whole = int if steps["crop_rounding"] == "floor" else round
        image = image.resize((new_width, new_height), resampling)
        image = image.crop((whole(left), whole(top), whole(left) + width, whole(top) + height))
    elif image.size != (width, height):  # straight to that size, from the part of the image that remains
        scale = max(width / image.width, height / image.height)
        scaled = [max(n, int(m * scale + 1e-6)) for n, m in ((width, image.width), (height, image.height))]
        left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
        x, y = image.width / scaled[0], image.height / scaled[1]
        box = (left * x, top * y, min(image.width, (left + width) * x), min(image.height, (top + height) * y))
        image = image.resize((width, height), resampling, box=None if steps["resize_mode"] == "squash" else box)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def main(model: str, paths: list[str]) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vitrail"])
    steps, classes = about["preprocessing"], about["classes"]
    for path in paths:
        pixels = fitted(upright_srgb(path, steps["icc"] == "apply"), steps)
        batch = pixels[None]
        if about["form"] == "tensor":
            batch = (batch / np.float32(255) - np.float32(steps["mean"])) / np.float32(steps["std"])
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)
        outputs = dict(
            zip(about["outputs"], session.run(about["outputs"], {about["input"]["name"]: batch}), strict=True)
        )
        probabilities = outputs["probabilities"][0]
        best = int(probabilities.argmax())
        label = classes[best] if classes else f"class {best}"
        limits = about["unknown"]
        if limits and (
            probabilities[best] < limits["min_probability"] or outputs["distances"][0] > limits["max_distance"]
        ):
            label = "unknown"
        print(f"{path}\t{label}\t{probabilities[best]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python predict_onnx.py model.onnx photo.jpg ...")
    main(sys.argv[1], sys.argv[2:])
