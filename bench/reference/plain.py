"""The reference system's training from scratch, written plainly: the contender that ours is measured beside.

ViT-B/16 with attention as the formula has it and one module for each part (arXiv:2010.11929), each image transformed on
its own with Pillow (resize to 224, flip, rotation, padded crop, colour jitter), a DataLoader with two workers, Adam at
1e-5, batch 32; on a GPU fp16 autocast with gradient scaling. It shares no code with the package.
"""

import random
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

IMAGE_SIZE = 224
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class Transform:
    """Resize(224), flip, rotation 15, padded crop, jitter .2/.2/.2/.1, to tensor, normalise; one image at a time."""

    def __call__(self, image: Image.Image) -> Tensor:
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        image = image.rotate(random.uniform(-15, 15), Image.Resampling.NEAREST)
        image = self.crop(ImageOps.expand(image, 4))
        image = self.jitter(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        return pixels.sub(mean).div(std)

    def crop(self, image: Image.Image) -> Image.Image:
        left, top = random.randint(0, image.width - IMAGE_SIZE), random.randint(0, image.height - IMAGE_SIZE)
        return image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))

    def jitter(self, image: Image.Image) -> Image.Image:
        steps: list[Callable[[Image.Image], Image.Image]] = [
            lambda i: ImageEnhance.Brightness(i).enhance(random.uniform(0.8, 1.2)),
            lambda i: ImageEnhance.Contrast(i).enhance(random.uniform(0.8, 1.2)),
            lambda i: ImageEnhance.Color(i).enhance(random.uniform(0.8, 1.2)),
            lambda i: shift_hue(i, random.uniform(-0.1, 0.1)),
        ]
        random.shuffle(steps)
        for step in steps:
            image = step(image)
        return image


def shift_hue(image: Image.Image, fraction: float) -> Image.Image:
    """Turn the hue by a fraction of the full circle."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue, dtype=np.uint8) + np.uint8(int(fraction * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


class Images(Dataset[tuple[Tensor, int]]):
    """Decoded uint8 images [N, C, H, W], transformed on access."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels, self.transform = images, labels, Transform()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(np.ascontiguousarray(self.images[index].transpose(1, 2, 0)))
        return self.transform(image), int(self.labels[index])


class PatchEmbeddings(nn.Module):
    def __init__(self, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.projection(pixel_values).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (hidden_size // num_heads) ** -0.5
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_dropout = nn.Dropout(0.0)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.projection_dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        x = (self.attention_dropout(weights) @ v).transpose(1, 2).reshape(batch, tokens, width)
        return self.projection_dropout(self.projection(x))


class MLP(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(x)))))


class Layer(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.norm_before = nn.LayerNorm(hidden_size, eps=1e-12)
        self.attention = Attention(hidden_size, num_heads)
        self.norm_after = nn.LayerNorm(hidden_size, eps=1e-12)
        self.mlp = MLP(hidden_size, intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_before(x))
        return x + self.mlp(self.norm_after(x))


class PlainViT(nn.Module):
    """ViT-B/16 by default: class token, learned positions, pre-norm layers, a linear classifier."""

    def __init__(
        self,
        num_labels: int,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        patch_size: int = 16,
    ) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(hidden_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, (IMAGE_SIZE // patch_size) ** 2 + 1, hidden_size))
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Layer(hidden_size, num_heads, 4 * hidden_size) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=1e-12)
        self.classifier = nn.Linear(hidden_size, num_labels)
        self.apply(initialise)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch_embeddings(pixel_values)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = self.dropout(x + self.position_embeddings)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.norm(x)[:, 0])


def initialise(module: nn.Module) -> None:
    """Truncated normal of std 0.02 for weights, zero for biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class PlainTraining:
    """The training loop, one step at a time; `step()` returns the number of images it took.

    Args:
        images: uint8 [N, C, H, W].
        labels: [N].
        device: cpu: fp32; cuda: fp16 autocast with gradient scaling.
        batch_size: images a step.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, device: torch.device, batch_size: int = 32) -> None:
        self.device = device
        cuda = device.type == "cuda"
        self.loader = DataLoader(
            Images(images, labels),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=2,
            pin_memory=cuda,
            persistent_workers=True,
        )
        self.batches = iter(self.loader)
        self.model = PlainViT(num_labels=int(labels.max()) + 1).to(device).train()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-5)
        self.scaler = torch.amp.GradScaler(device.type, enabled=cuda)

    def step(self) -> int:
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        pixel_values, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.scaler.is_enabled()):
            loss = self.criterion(self.model(pixel_values), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        loss.item()  # the reference shows a running average
        return len(labels)
