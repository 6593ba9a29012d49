"""What a caption encoder hands back when it is trained. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Fitted:
    """A trained caption encoder, ready for use without torch.

    Attributes:
        graph: inputs `ids` int64 `(N, T)`, padded with `ganlib.text.tokenizer.PADDING`, and `lengths` int64 `(N,)`,
            each 1 to T; output `embedding` float32 `(N, d)`. Padding changes nothing, and a caption gives the same bits
            alone and in a batch.
        loss: the training loss over the last steps, in the encoder's own unit.
    """

    graph: onnx.ModelProto
    loss: float
