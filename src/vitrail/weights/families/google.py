"""Google's .npz: vision_transformer and AugReg, and big_vision, in all their layouts.

Source: google-research/vision_transformer:vit_jax/models_vit.py;
google-research/big_vision:big_vision/models/vit.py, utils.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.config.checks import pair
from vitrail.errors import WeightsError
from vitrail.weights.geometry import infer_geometry
from vitrail.weights.key_table import PRE_LOGITS, WRAPPER, Key, KeyTable, Reading, WeightSource
from vitrail.weights.preprocess import HALF, squash

NAME = "Google .npz"
_PREFIXES = ("opt/target/", "params/img/", "params/", "target/")
_SCANNED = "Transformer/encoderblock/"


def _conv(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1)


def _conv_back(kernel: Tensor) -> Tensor:
    return kernel.permute(2, 3, 1, 0)


def _into_heads(kernel: Tensor) -> Tensor:
    """[D, A, K] to [A K, D]."""
    return kernel.flatten(1).mT


def _out_of_heads(kernel: Tensor) -> Tensor:
    """[A, K, D] to [D, A K]."""
    return kernel.flatten(0, 1).mT


def _transposed(kernel: Tensor) -> Tensor:
    if kernel.ndim != 2:
        raise ValueError
    return kernel.mT


def _flat(bias: Tensor) -> Tensor:
    return bias.flatten()


def _norm(theirs: str, ours: str) -> list[Key]:
    return [Key(f"{theirs}/scale", f"{ours}.weight"), Key(f"{theirs}/bias", f"{ours}.bias")]


def _dense(theirs: str, ours: str) -> list[Key]:
    return [
        Key(f"{theirs}/kernel", f"{ours}.weight", to_ours=_transposed, to_theirs=_transposed),
        Key(f"{theirs}/bias", f"{ours}.bias"),
    ]


def _attention(theirs: str, q: str, kv: str, out: str, heads: int) -> list[Key]:
    """Query, key and value kernels [D, A, K] and the output's [A, K, D]."""

    def split(weight: Tensor) -> Tensor:
        return weight.mT.unflatten(1, (heads, -1))

    def split_bias(bias: Tensor) -> Tensor:
        return bias.unflatten(0, (heads, -1))

    def split_rows(weight: Tensor) -> Tensor:
        return weight.mT.unflatten(0, (heads, -1))

    fused = [("query", q, (0, 3)), ("key", q, (1, 3)), ("value", q, (2, 3))]
    apart = [("query", q, (0, 1)), ("key", kv, (0, 2)), ("value", kv, (1, 2))]
    rows: list[Key] = []
    for name, ours, part in fused if q == kv else apart:
        rows.append(Key(f"{theirs}/{name}/kernel", f"{ours}.weight", part, _into_heads, split))
        rows.append(Key(f"{theirs}/{name}/bias", f"{ours}.bias", part, _flat, split_bias))
    return [
        *rows,
        Key(
            f"{theirs}/out/kernel",
            f"{out}.weight",
            to_ours=_out_of_heads,
            to_theirs=split_rows,
        ),
        Key(f"{theirs}/out/bias", f"{out}.bias"),
    ]


def table(heads: int, *, linen: bool, big_vision: bool, inlined_map: bool = False) -> KeyTable:
    """The names of one layout.

    Args:
        heads: A, for writing.
        linen: sub-layers numbered by kind, as big_vision and newer vision_transformer files do.
        big_vision: the position embedding at the top level.
        inlined_map: the attention pooling at the top level, as an early version wrote it.
    """
    block = "Transformer/encoderblock_{i}"
    attention, norm2, mlp = (
        ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
        if linen
        else ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    )
    qkv = "blocks.{i}.attn.qkv"
    pool = "" if inlined_map else "MAPHead_0/"
    return KeyTable(
        [
            Key("embedding/kernel", "patch_embed.proj.weight", to_ours=_conv, to_theirs=_conv_back),
            Key("embedding/bias", "patch_embed.proj.bias"),
            Key("cls", "cls_token"),
            *([Key("pos_embedding", "pos_embed")] if big_vision else []),
            Key("Transformer/posembed_input/pos_embedding", "pos_embed"),
            Key("Transformer/pos_embedding", "pos_embed"),
            *_norm(f"{block}/LayerNorm_0", "blocks.{i}.norm1"),
            *_attention(f"{block}/{attention}", qkv, qkv, "blocks.{i}.attn.proj", heads),
            *_norm(f"{block}/{norm2}", "blocks.{i}.norm2"),
            *_dense(f"{block}/{mlp}/Dense_0", "blocks.{i}.mlp.fc1"),
            *_dense(f"{block}/{mlp}/Dense_1", "blocks.{i}.mlp.fc2"),
            *_norm("Transformer/encoder_norm", "norm"),
            Key(f"{pool}probe", "attn_pool.latent"),
            *_attention(
                f"{pool}MultiHeadDotProductAttention_0", "attn_pool.q", "attn_pool.kv", "attn_pool.proj", heads
            ),
            *_norm(f"{pool}LayerNorm_0", "attn_pool.norm"),
            *_dense(f"{pool}MlpBlock_0/Dense_0", "attn_pool.mlp.fc1"),
            *_dense(f"{pool}MlpBlock_0/Dense_1", "attn_pool.mlp.fc2"),
            *_dense("head", "head"),
        ]
    )


TABLE = table(1, linen=False, big_vision=False)


def recognise(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str | None:
    """The evidence that these are Google's names; None: they are not."""
    prefix = _prefix(tensors)
    found = [n for n in (f"{prefix}embedding/kernel", f"{prefix}Transformer/encoder_norm/scale") if n in tensors]
    if not found or not any(n.startswith(f"{prefix}Transformer/") for n in tensors):
        return None
    return f"{found[0]}, {_layout(tensors, prefix)}"


def read(source: WeightSource, evidence: str) -> Reading:
    """Read a Google file in any layout. eps 1e-6; exact GELU, as timm and transformers run these weights."""
    prefix = _prefix(source.tensors)
    theirs: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name, tensor in source.tensors.items():
        short = name.removeprefix(prefix)
        if not name.startswith(prefix) or short.startswith(("opt/", "opt_state/", "t/", "b/")):
            dropped[name] = WRAPPER
        elif short.startswith("pre_logits/"):
            dropped[name] = PRE_LOGITS
        elif short.startswith(_SCANNED):  # one tensor for all blocks, depth first
            for block, part in enumerate(tensor):
                unrolled = f"Transformer/encoderblock_{block}/{short.removeprefix(_SCANNED)}"
                theirs[unrolled], names[unrolled] = part, name
        else:
            theirs[short], names[short] = tensor, name
    keys = table(
        1,
        linen=not any("MlpBlock_3" in n for n in theirs),
        big_vision="pos_embedding" in theirs,
        inlined_map="probe" in theirs,
    )
    heads = _heads(theirs)
    tensors, mapped = keys.read(theirs)
    position = "learned"
    if "pos_embed" not in tensors:
        _check_sincos(tensors, dropped)
        position = "sincos"
    geometry = infer_geometry(
        tensors,
        asked_size=source.asked_size,
        heads=heads,
        bare_positions="pos_embedding" in theirs,  # big_vision adds them before the class token comes
        layer_norm_eps=1e-6,
        position_resampling="bilinear_aligned",
        pooling=_pooling(tensors),
        position=position,
    )
    defaulted = ["exact GELU (trained with the tanh approximation)", "squash, bilinear with antialias"]
    if position == "sincos":
        defaulted.append("224 pixels, sine-cosine positions")
    head = tensors.get("head.weight")
    if head is not None and bool((head == head[:1]).all()):
        defaulted.append("the head is untrained: all its rows are equal")
    return Reading(
        family=NAME,
        evidence=evidence,
        geometry=geometry,
        tensors={name: tensor.contiguous() for name, tensor in tensors.items()},
        mapped={names[name]: ours for name, ours in mapped.items()},
        dropped=dropped,
        preprocessing=squash(pair(geometry.image_size), HALF, HALF, "bilinear"),
        defaulted=tuple(defaulted),
        table=keys,
    )


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    return next((p for p in _PREFIXES if any(n.startswith(f"{p}Transformer/") for n in tensors)), "")


def _layout(tensors: Mapping[str, Tensor], prefix: str) -> str:
    if any(n.startswith(prefix + _SCANNED) for n in tensors):
        return "big_vision, scanned"
    if any("MlpBlock_3" in n for n in tensors):
        return "vision_transformer"
    posembed = any("posembed_input" in n for n in tensors)
    return "vision_transformer, linen names" if posembed else "big_vision"


def _heads(theirs: Mapping[str, Tensor]) -> int:
    """A, from the attention's own shapes, which all say the same. Raises WeightsError for one that does not."""
    pattern = re.compile(r".*MultiHeadDotProductAttention_\d/(query|key|value|out)/(kernel|bias)")
    said: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in theirs.items():
        if (found := pattern.fullmatch(name)) and found[1] + found[2] != "outbias":
            ndim = 3 if found[2] == "kernel" else 2
            if tensor.ndim != ndim:
                raise WeightsError(
                    f"Tensor {name} has the wrong shape.", got=list(tensor.shape), expected=f"{ndim} axes"
                )
            shape = tuple(tensor.shape)
            said.setdefault(shape[:2] if found[1] == "out" else shape[-2:], []).append(name)
    if not said:
        raise WeightsError("The file lacks the attention's query kernels.", expected="[D, A, K]")
    usual = max(said, key=lambda shape: len(said[shape]))
    if len(said) > 1:
        odd = [name for shape, names in said.items() if shape != usual for name in names]
        raise WeightsError(
            f"Tensor {odd[0]} has other heads than the rest.",
            got=list(theirs[odd[0]].shape),
            expected=f"heads and their width {list(usual)}",
        )
    return usual[0]


def _check_sincos(tensors: Mapping[str, Tensor], dropped: Mapping[str, str]) -> None:
    """The models without stored positions, of "Better plain ViT baselines" (arXiv:2205.01580), pool by the mean and
    have pre-logits. In any other file the position embedding is missing: raises WeightsError.
    """
    if _pooling(tensors) != "mean" or PRE_LOGITS not in dropped.values():
        raise WeightsError(
            "The file lacks pos_embedding, the position embedding.",
            got=f"pooling {_pooling(tensors)}, {'' if PRE_LOGITS in dropped.values() else 'no '}pre_logits",
            expected="pos_embedding; only models with mean pooling and pre_logits have computed positions",
        )


def _pooling(tensors: Mapping[str, Tensor]) -> str:
    if any(name.startswith("attn_pool.") for name in tensors):
        return "map"
    return "cls" if "cls_token" in tensors else "mean"
