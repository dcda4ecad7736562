"""A plain ViT with the names of the reference system, written as its tutorial is: one module for each part."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.attention["qkv"](self.layernorm_before(x))
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.attention["proj"]((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x))))


class Embeddings(nn.Module):
    def __init__(self, width: int, image: int, patch: int, mask_token: bool) -> None:
        super().__init__()
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if mask_token else None
        self.position_embeddings = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width) * 0.02)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.patch_embeddings["projection"](images)
        first, rest = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        side = round(rest.shape[1] ** 0.5)
        rest = rest.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        rest = F.interpolate(rest, size=grid.shape[2:], mode="bicubic", align_corners=False)
        positions = torch.cat((first, rest.flatten(2).transpose(1, 2)), dim=1)
        tokens = grid.flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1) + positions


class ReferenceViT(nn.Module):
    def __init__(
        self,
        num_labels: int = 10,
        *,
        image: int = 224,
        patch: int = 56,
        width: int = 128,
        depth: int = 2,
        mask_token: bool = False,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(width, image, patch, mask_token)
        layers = nn.ModuleList(Layer(width, width // 64, 2 * width) for _ in range(depth))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.layernorm = nn.LayerNorm(width, eps=1e-12)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings(images)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.classifier(self.layernorm(x)[:, 0])
