"""First values of the parameters.

| parameters                                      | normal                     | zero-residual | mimetic       |
|-------------------------------------------------|----------------------------|---------------|---------------|
| patch embedding                                 | truncated normal           | 1 / sqrt(in)  | same          |
| attn.qkv                                        | truncated normal           | .6 / sqrt(in) | QK near I     |
| attn.proj                                       | truncated normal           | 0             | VO near -I    |
| mlp.fc1                                         | truncated normal           | .6 / sqrt(in) | same          |
| mlp.fc2, head                                   | truncated normal           | 0             | same          |
| convolutions of the stem                        | sqrt(2 / in)               | same          | same          |
| class token, registers, learned positions       | truncated normal           | same          | same          |
| biases; mask token                              | 0                          | same          | same          |
| scale and shift of norms                        | 1 and 0                    | same          | same          |

"in" is the number of inputs of one output; a number is the standard deviation of a truncated normal. `whiten_patches`
and `whiten_filters` change the layer that sees the pixels afterwards.
Paper: arXiv:2010.11929 (std 0.02), arXiv:2305.09828 (mimetic), arXiv:1502.01852 (stem).
"""

import torch
from jaxtyping import Float64
from torch import Tensor, nn


@torch.no_grad()
def truncated_normal(tensor: Tensor, std: float) -> None:
    """Fill with a normal distribution cut at -2 and 2 (not at 2 std: the cut takes nothing off std), in fp32.

    On the meta device there is nothing to fill, and torch would import sympy to say so: a third of a second.
    """
    if tensor.is_meta:
        return
    sample = torch.zeros_like(tensor, dtype=torch.float32)
    if std > 0:
        nn.init.trunc_normal_(sample, std=std)
    tensor.copy_(sample)


@torch.no_grad()
def initialise_layers(module: nn.Module, std: float) -> None:
    """Initialise every linear, convolution and norm inside `module`, including its own weights."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            truncated_normal(layer.weight, std)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
            layer.reset_parameters()


@torch.no_grad()
def scale_by_inputs(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Initialise one weight with a standard deviation of gain / sqrt(inputs of one output); gain 0 gives zeros."""
    truncated_normal(layer.weight, gain * layer.weight[0].numel() ** -0.5)


@torch.no_grad()
def whiten_patches(
    projection: nn.Conv2d, mean: Float64[Tensor, "in"], covariance: Float64[Tensor, "in in"], floor: float = 0.01
) -> None:
    """Let a patch projection see patches whose values are uncorrelated and have the variance 1, instead of the pixels.

    Neighbouring pixels are nearly equal, so that random weights see the mean colour of a patch and little else.

    Args:
        projection: with random weights; they are applied to the whitened values, and its bias takes the mean out.
        mean, covariance: of the values of a patch, in the order of the kernel.
        floor: is added to the variances, so that what is hardly there is not blown up; of normalised pixels.
    Source: arXiv:2404.00498, section 3.1, where the whitened values are the outputs of a frozen convolution.
    """
    variances, directions = torch.linalg.eigh(covariance)
    whitening = (directions / (variances.clamp(min=0) + floor).sqrt()).T
    weight = projection.weight.double().flatten(1) @ whitening
    projection.weight.copy_(weight.view_as(projection.weight))
    if projection.bias is not None:
        projection.bias.copy_(projection.bias.double() - weight @ mean)


@torch.no_grad()
def whiten_filters(convolution: nn.Conv2d, covariance: Float64[Tensor, "in in"], floor: float = 0.01) -> None:
    """Let the filters of a first convolution begin as the directions in which pixels vary most, all equally strong.

    Each direction comes twice, with both signs, so that a ReLU behind it loses nothing. Filters that are left over,
    where there are more than twice as many as directions, keep their random values.

    Args:
        convolution: without a bias; a norm that follows takes the mean out.
        covariance: of the values under the kernel, in its order.
        floor: is added to the variances.
    Source: arXiv:2404.00498, section 3.1, where they are frozen.
    """
    variances, directions = torch.linalg.eigh(covariance)
    filters = (directions / (variances.clamp(min=0) + floor).sqrt()).T.flip(0)
    count = min(convolution.out_channels // 2, len(filters))
    both = torch.cat([filters[:count], -filters[:count]])
    convolution.weight[: 2 * count].copy_(both.view_as(convolution.weight[: 2 * count]))


@torch.no_grad()
def mimetic_attention(qkv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
    """Make one attention layer look trained: W_Q W_K^T = 0.7 (Z + I) in each head, W_V W_O = 0.4 (Z - I).

    Z is a fresh matrix of N(0, 1/D). A head is K < D wide, so its product is the leading rank-K part. One singular
    value decomposition of D x D per head: milliseconds at D = 192, about a minute for the whole of B/16.
    The paper pairs it with sine-cosine positions.

    Args:
        qkv: fused projection, rows q, k, v, each head-major.
        proj: output projection.
        num_heads: A.
    Source: arXiv:2305.09828, section 3, with its constants for vision.
    """
    width = proj.out_features
    head_width = width // num_heads
    device = proj.weight.device
    identity = torch.eye(width, device=device)
    query, key, value = qkv.weight.unflatten(0, (3, width))
    for head in range(num_heads):
        rows = slice(head * head_width, (head + 1) * head_width)
        left, right = _square_root_factors(0.7 * torch.randn(width, width, device=device) / width**0.5 + 0.7 * identity)
        query[rows] = left[:, :head_width].T
        key[rows] = right[:, :head_width].T
    left, right = _square_root_factors(0.4 * torch.randn(width, width, device=device) / width**0.5 - 0.4 * identity)
    value.copy_(left.T)
    proj.weight.copy_(right)


def _square_root_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(L, R) with L R^T = matrix, columns ordered by falling singular value, which each side shares evenly."""
    u, s, vh = torch.linalg.svd(matrix)
    return u * s.sqrt(), vh.T * s.sqrt()
