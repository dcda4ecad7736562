"""The model inside the Hugging Face Trainer, with the Trainer's own defaults."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

import tests.support.torchvision_operators  # noqa: F401  (before transformers)
from vitrail.config import ViTConfig
from vitrail.model import ViT

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Digits(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Handwritten digits of scikit-learn, 8x8 grey, under the model's argument names."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        self.labels = torch.from_numpy(digits.target)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def test_the_trainer_trains_and_evaluates_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViT(
        ViTConfig(
            image_size=8, patch_size=2, num_channels=1, num_labels=10,
            hidden_size=48, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2.0,
        )
    )  # fmt: skip
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=120, per_device_train_batch_size=64,
        per_device_eval_batch_size=600, learning_rate=5e-3, logging_steps=20,
        use_cpu=True, dataloader_pin_memory=False, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Digits(), eval_dataset=Digits())
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert trainer.evaluate()["eval_loss"] < 0.5 * before
    prediction = trainer.predict(Digits())
    assert prediction.predictions.shape == (1797, 10)
    assert (prediction.predictions.argmax(1) == prediction.label_ids).mean() > 0.7
