"""Token merging (ToMe) as nodes of ONNX: the same tokens become one as in `vitrail.runtime.merging`.

How many tokens each layer has is known when the graph is written; which ones are merged is found for each image. Sizes,
the patches that a token stands for, are a value of the graph from the first merging on. Pooling weighs by them, so that
no patch has to be given back its token.

Paper: "Token Merging: Your ViT But Faster", arXiv:2210.09461, section 3
"""

import numpy as np
from onnx import TensorProto

from vitrail.runtime.graph.nodes import Graph

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize


class Merging:
    """The tokens of a graph while they get fewer: x [B, N, D], the prefix first, then P patches.

    Args:
        graph: gets the nodes.
        count: patches that are merged in each layer; 0: none, and no node is added.
        num_prefix: tokens that stay as they are.
        num_patches: at the start.
    """

    def __init__(self, graph: Graph, count: int, num_prefix: int, num_patches: int) -> None:
        self._graph, self._count, self._num_prefix = graph, count, num_prefix
        self._num_patches = self._num_all = num_patches
        self._sizes = ""  # [B, P, 1]; none yet: each patch stands for itself

    @property
    def num_due(self) -> int:
        """Patches that the next layer merges."""
        return min(self._count, self._num_patches // 2)

    def log_sizes(self, *, patches_alone: bool = False) -> str:
        """What is added to scores, [B, 1, 1, N] or [B, 1, 1, P]; "" as long as nothing was merged."""
        if not self._sizes:
            return ""
        graph = self._graph
        logs = graph.node("Transpose", graph.node("Log", self._sizes), perm=[0, 2, 1])
        if self._num_prefix and not patches_alone:
            logs = graph.node("Pad", logs, graph.constant([0, 0, self._num_prefix, 0, 0, 0]))
        return graph.node("Unsqueeze", logs, graph.constant([1]))

    def score_bias(self) -> str:
        """The same for each query: [B, 1, N, N]."""
        if not self._sizes:
            return ""
        num_tokens = self._num_prefix + self._num_patches
        zeros = self._graph.constant(np.zeros((1, 1, num_tokens, 1), np.float32))
        return self._graph.node("Add", self.log_sizes(), zeros)

    def merge(self, x: str, keys: str) -> str:
        """Merge the patches whose keys [B, N, K], averaged over the heads, look most alike: [B, N, D] to fewer."""
        graph, prefix = self._graph, self._num_prefix
        num_first, num_second = (self._num_patches + 1) // 2, self._num_patches // 2
        num_kept = num_first - self.num_due
        moves = self._moves(graph.after(keys, prefix, 1), num_kept, num_second)
        if self._sizes:
            patches = graph.node("Mul", graph.after(x, prefix, 1), self._sizes)
            first_sizes, second_sizes = self._dealt(self._sizes)
        else:
            patches = graph.after(x, prefix, 1)
            first_sizes, second_sizes = (
                graph.constant(np.ones((1, count, 1), np.float32)) for count in (num_first, num_second)
            )
        first, second = self._dealt(patches)
        total = self._brought_together(moves, first, second, num_kept)
        # A product instead of a sum over an axis: OpenVINO 2026.4 makes NaN of that sum here.
        self._sizes = self._brought_together(moves, first_sizes, second_sizes, num_kept)
        self._num_patches = num_kept + num_second
        merged = graph.node("Div", total, self._sizes)
        return graph.node("Concat", graph.slice(x, 0, prefix, 1), merged, axis=1) if prefix else merged

    def mean(self, patches: str) -> str:
        """The mean over all patches of the start: [B, P, D] to [B, D]."""
        graph = self._graph
        if not self._sizes:
            return graph.reduce("ReduceMean", patches, 1)
        weighted = graph.node("Mul", patches, self._sizes)
        return graph.node("Div", graph.reduce("ReduceSum", weighted, 1), graph.number(self._num_all))

    def _brought_together(self, moves: str, first: str, second: str, num_kept: int) -> str:
        """The second set, with what moves into it added, behind what is left of the first: [B, left, any]."""
        graph = self._graph
        behind = graph.node("Pad", second, graph.constant([0, num_kept, 0, 0, 0, 0]))
        return graph.node("Add", graph.node("MatMul", moves, first), behind)

    def _dealt(self, x: str) -> tuple[str, str]:
        """Every other patch, from the first and from the second."""
        return self._graph.slice(x, 0, self._num_patches, 1, 2), self._graph.slice(x, 1, self._num_patches, 1, 2)

    def _moves(self, keys: str, num_kept: int, num_second: int) -> str:
        """Where the patches of the first set go: [B, left, first], 1 where a patch becomes part of what is left.

        Left are those of the first set that are not merged, in their order, then the second set.
        """
        graph = self._graph
        norm = graph.reduce("ReduceL2", keys, -1, keep=True)
        keys = graph.node("Div", keys, graph.node("Max", norm, graph.number(_SMALLEST_NORM)))
        first, second = self._dealt(keys)
        alike = graph.node("MatMul", first, graph.node("Transpose", second, perm=[0, 2, 1]))
        best = graph.reduce("ReduceMax", alike, 2)
        partner = graph.node("Cast", graph.node("ArgMax", alike, axis=2, keepdims=0), to=TensorProto.FLOAT)
        order = graph.node("TopK", best, graph.constant([self.num_due]), axis=1, output=1)
        is_merged = graph.node("ScatterElements", graph.filled(best, 0), order, graph.filled(order, 1), axis=1)
        kept = graph.node(
            "CumSum", graph.node("Sub", graph.number(1.0), is_merged), graph.constant(np.array(1, np.int64))
        )
        kept = graph.node("Sub", kept, graph.number(1.0))
        into = graph.node("Add", partner, graph.number(num_kept))
        place = graph.node("Where", graph.node("Cast", is_merged, to=TensorProto.BOOL), into, kept)
        left = graph.constant(np.arange(num_kept + num_second, dtype=np.float32)[None, :, None])
        return graph.node(
            "Cast", graph.node("Equal", graph.node("Unsqueeze", place, graph.constant([1])), left), to=TensorProto.FLOAT
        )
