"""Self-attention against the sum over places written out."""

from __future__ import annotations

import pytest
import torch

from ganlib.networks.attention import SelfAttention, attended


@pytest.mark.parametrize("side", [4, 7])
def test_attention_is_the_written_out_sum(side: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16).double()
    with torch.no_grad():
        attention.gamma.fill_(0.7)
        for layer in (attention.query, attention.key):
            layer.weight.mul_(2)  # a softmax that is far from even
    x = torch.randn(3, 16, side, side, dtype=torch.float64)

    def mixed(layer: torch.nn.Conv2d, maps: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,nchw->nohw", layer.weight[:, :, 0, 0], maps)

    def pooled(maps: torch.Tensor) -> torch.Tensor:
        half = side // 2
        cut = maps[:, :, : 2 * half, : 2 * half].reshape(*maps.shape[:2], half, 2, half, 2)
        return cut.amax(dim=(3, 5))

    query, key, value = mixed(attention.query, x), pooled(mixed(attention.key, x)), pooled(mixed(attention.value, x))
    energy = torch.einsum("nchw,ncij->nhwij", query, key).exp()
    share = energy / energy.sum(dim=(3, 4), keepdim=True)
    expected = x + 0.7 * mixed(attention.out, torch.einsum("nhwij,ncij->nchw", share, value))
    torch.testing.assert_close(attention(x), expected)
    assert share.amax() > 0.5  # not an even mean


def test_it_begins_as_the_identity_and_gamma_learns_first() -> None:
    attention, x = SelfAttention(8), torch.randn(2, 8, 4, 4)
    assert torch.equal(attention(x), x)
    attention(x).square().sum().backward()
    assert attention.gamma.grad is not None
    assert attention.gamma.grad.abs() > 0
    assert {name for name, _ in attention.named_parameters()} == {
        "gamma", "query.weight", "key.weight", "value.weight", "out.weight"
    }  # fmt: skip
    assert sum(p.numel() for p in attention.parameters()) == 8 * 1 + 8 * 1 + 8 * 4 + 4 * 8 + 1


@pytest.mark.parametrize(
    ("size", "largest", "expected"),
    [(128, 32, 3), (64, 32, 3), (32, 32, 2), (32, 64, 2), (28, 32, 1), (8, 32, 0), (128, 64, 4), (32, 3, None),
     (32, 0, None), (64, 15, 1)],
)  # fmt: skip
def test_where_attention_goes(size: int, largest: int, expected: int | None) -> None:
    assert attended(size, largest) == expected
