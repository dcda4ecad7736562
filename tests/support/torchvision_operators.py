"""Import this before timm or transformers: it lets torchvision load beside a CPU build of torch.

Its published wheel registers kernels for two operators that only its compiled part declares. Declaring their schemas
is enough for everything in it that is pure Python, which is all that timm and transformers use here.
"""

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # the declarations live as long as this object
for _name, _schema in SCHEMAS.items():
    if not hasattr(torch.ops.torchvision, _name):
        LIBRARY.define(_schema)
