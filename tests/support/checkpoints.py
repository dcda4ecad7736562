"""A small checkpoint and a small model file, different for each number."""

import torch

import vitrail
from vitrail.weights import Card

STATE = {"best": {"accuracy": 0.5}}


def tensors(number: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(number)
    return {
        "model": {"w": torch.randn(5, 7, generator=generator), "b": torch.randn(3, generator=generator)},
        "optim": {"0.0.step": torch.tensor(float(number)), "0.0.exp_avg": torch.randn(5, 7, generator=generator)},
    }


def model_and_card(number: int) -> tuple[vitrail.ViT, Card]:
    torch.manual_seed(number)
    config = vitrail.ViTConfig(
        image_size=4, patch_size=2, num_labels=2, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    steps = vitrail.Preprocessing(image_size=(4, 4), decode_size=(4, 4))
    return vitrail.ViT(config), Card(geometry=config, classes=("a", "b"), preprocessing=steps)
