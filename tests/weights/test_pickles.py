"""The shape of pickles: what libraries write passes, what builds monsters does not."""

import argparse
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from vitrail.weights.pickles import check_pickle


def checked(raw: bytes) -> None:
    check_pickle(io.BytesIO(raw))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_what_training_files_hold_passes(protocol: int) -> None:
    state = {
        "state_dict": OrderedDict((f"blocks.{i}.weight", [1.0] * 3) for i in range(30)),
        "optimizer": {"state": {i: {"exp": (1, (2, [3]))} for i in range(9)}, "groups": [{"betas": (0.9, 0.999)}]},
        "args": argparse.Namespace(model="vit", lr=1e-3, seen={1, 2, 3}),
        ("a", 1): None,
        "bytes": b"abc",
        "big": 10**30,
    }  # fmt: skip
    checked(pickle.dumps(state, protocol))


def test_what_torch_writes_passes(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3}, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as archive:
        checked(archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl"))))
    torch.save(model.state_dict(), tmp_path / "b", _use_new_zipfile_serialization=False)
    with (tmp_path / "b").open("rb") as stream:
        for _ in range(5):
            check_pickle(stream)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.", "nested"),
        (b"\x80\x02})\x85\x85K\x01s.", "a key that is nested"),
        (b"\x80\x02}()\x85\x85K\x01u.", "a key that is nested"),
        (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "nested more than 100 deep"),
        (b"\x80\x02cbuiltins\nbytearray\nK\x05\x85R.", "bytearray"),
        (b"\x80\x02]", "pickle"),
        (b"\x80\x02a.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02(", "pickle"),
        (b"\x80\x02e.", "damaged"),
        (b"", "pickle"),
    ],
)
def test_what_no_weights_have_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(raw)


@pytest.mark.long
def test_a_pickle_without_end_is_bounded() -> None:
    with pytest.raises(ValueError, match="more than 2000000 values"):
        checked(b"\x80\x02" + b"N0" * 1_100_000 + b"N.")
