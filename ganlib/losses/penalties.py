"""Penalties: pure functions of weight 1, averaged over the batch, chosen and weighted by name in
params.yaml.

A critic takes images `(N, C, H, W)` to logits with one row an image, a generator takes latents `(N, d)` to images; what
they are conditioned on is bound into them. `uniform(*shape)` gives U[0, 1) and `normal(*shape)` N(0, 1) of the shape
`(N, *shape)`; nothing else is random, so that several processes can draw the same numbers. Gradients and squares are
taken in float32 at least, whatever autocast says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Critic = Callable[[Tensor], Tensor]
Generate = Callable[[Tensor], Tensor]
Uniform = Callable[..., Tensor]
Normal = Callable[..., Tensor]
Penalty = Callable[[Critic, Tensor, Tensor, Uniform], Tensor]
LogitPenalty = Callable[[Tensor, Tensor, Tensor], Tensor]
GeneratorPenalty = Callable[[Generate, Tensor, Tensor, Normal], tuple[Tensor, Tensor]]
WeightPenalty = Callable[[nn.Module], Tensor]


def r1(critic: Critic, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
    """Half the squared gradient norm at real images: Mescheder et al. 2018 (arXiv 1801.04406), eq. 9, gamma = 1."""
    return _gradient(critic, real).square().sum(dim=1).mean() / 2


def r2(critic: Critic, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
    """Half the squared gradient norm at fake images: Mescheder et al. 2018 (arXiv 1801.04406), eq. 10, gamma = 1."""
    return _gradient(critic, fake).square().sum(dim=1).mean() / 2


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
    """Gradient norm 1 between real and fake images: Gulrajani et al. 2017, WGAN-GP (arXiv 1704.00028), eq. 3.

    Two-sided: (|grad D(x_hat)| - 1)^2 at x_hat = u x + (1 - u) g with one u for each image. The authors weigh it by 10.

    Args:
        critic: see the module.
        real: images x `(N, C, H, W)`.
        fake: images g of the same shape.
        uniform: draws u.
    """
    along = uniform(1, 1, 1)
    return _distance_from_one(critic, along * real + (1 - along) * fake)


def dragan(critic: Critic, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
    """Gradient norm 1 around real images: Kodali et al. 2017, DRAGAN (arXiv 1705.07215).

    (|grad D(x_hat)| - 1)^2 at x_hat = x + u std(x) v / 2, with one u for each image, one v in [0, 1) for each of its
    values and the standard deviation of all values in `real`. The paper has normal noise; this is the authors' code.
    They weigh it by 10.

    Args:
        critic: see the module.
        real: images x `(N, C, H, W)`.
        fake: not read.
        uniform: draws u, then v.
    """
    along = uniform(1, 1, 1)
    return _distance_from_one(critic, real + along * real.std(correction=0) * uniform(*real.shape[1:]) / 2)


def consistency(critic: Critic, real: Tensor, fake: Tensor, uniform: Uniform) -> Tensor:
    """Equal logits for shifted and flipped real images: Zhang et al. 2020, CR-GAN (arXiv 1910.12027), last layer alone.

    |D(x) - D(T(x))|^2, where T mirrors an image left to right with probability 1/2 and shifts it by whole pixels.
    The paper shifts by a few pixels and names neither their number nor the border: here it is at most an eighth of the
    side each way, equally likely, with the border reflected. The authors weigh it by 10. Not for images that mean
    something else in a mirror, such as digits.

    Args:
        critic: see the module.
        real: images x `(N, C, H, W)`; sides below 8 are flipped only.
        fake: not read.
        uniform: draws the flips, then the shifts.
    """
    difference = _widened(critic(real)) - _widened(critic(_shifted_and_flipped(real, uniform)))
    return difference.reshape(len(real), -1).square().sum(dim=1).mean()


def lecam(p_real: Tensor, p_fake: Tensor, anchors: Tensor) -> Tensor:
    """Logits near the other side's running mean: Tseng et al. 2021, LeCam (arXiv 2104.03310), eq. 3.

    E (D(x) - a_F)^2 + E (D(G(z)) - a_R)^2. The authors' code leaves real logits below a_F and fake ones above a_R
    alone, and corrects the means for their start at 0.

    Args:
        p_real: logits of real images, any shape.
        p_fake: logits of fake images, any shape.
        anchors: `(2,)`, the running means a_R of real and a_F of fake logits (see `moved_anchors`).
    """
    a_real, a_fake = anchors
    return (_widened(p_real) - a_fake).square().mean() + (_widened(p_fake) - a_real).square().mean()


def moved_anchors(anchors: Tensor, p_real: Tensor, p_fake: Tensor, decay: float = 0.99) -> Tensor:
    """The running means of real and fake logits `(2,)` after another batch; no gradient passes (arXiv 2104.03310)."""
    means = torch.stack([_widened(p_real).mean(), _widened(p_fake).mean()]).detach()
    return decay * anchors + (1 - decay) * means


def path_length(generate: Generate, z: Tensor, mean: Tensor, noise: Normal) -> tuple[Tensor, Tensor]:
    """Steps in the latent change images equally: Karras et al. 2020, StyleGAN2 (arXiv 1912.04958), section 3.2, eq. 4.

    (|J^T y| - a)^2 with the Jacobian J of the images by the latent, y ~ N(0, I) / sqrt(H W) and a the running mean of
    |J^T y|. The authors take the intermediate latent for z, and weigh it by 2.

    Args:
        generate: latents to images `(N, C, H, W)`.
        z: latents `(N, d)`. A result of other networks keeps its graph, so that they are trained as well.
        mean: a before this batch, a scalar.
        noise: draws y before it is scaled.

    Returns:
        The penalty, and a moved by a hundredth towards this batch: the a of the penalty, and no gradient passes it.
    """
    if not z.requires_grad:
        z = z.detach().requires_grad_()
    images = generate(z)
    height, width = images.shape[2:]
    along = (images * noise(*images.shape[1:])).sum() / (height * width) ** 0.5
    (gradient,) = torch.autograd.grad(along, z, create_graph=True)
    lengths = torch.linalg.vector_norm(_widened(gradient), dim=-1)
    moved = mean + 0.01 * (lengths.detach().mean() - mean)
    return (lengths - moved).square().mean(), moved


def orthogonal(network: nn.Module) -> Tensor:
    """Rows of weights orthogonal, their lengths free: Brock et al. 2019, BigGAN (arXiv 1809.11096), eq. 3.

    The sum of |W W^T * (1 - I)|_F^2 over all trained parameters with two dimensions or more, reshaped to
    `(first dimension, rest)`. Embeddings are left out: the authors leave out the shared one. Where a parametrization
    computes a weight (spectral norm), this is of what it computes it from. The authors' code adds half this gradient,
    so their 1e-4 is 5e-5 here.
    """
    tables = [module for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    excluded = {id(parameter) for table in tables for parameter in table.parameters()}
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() >= 2 and id(p) not in excluded]
    return sum((_squared_products(weight.flatten(1)) for weight in weights), start=torch.zeros(()))


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))  # float64 stays


def _gradient(critic: Critic, images: Tensor) -> Tensor:
    """Of each image's logit by the image `(N, C * H * W)`, in float32 at least; it can be differentiated further."""
    images = _widened(images.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


def _distance_from_one(critic: Critic, images: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(_gradient(critic, images), dim=1)  # its derivative at 0 is 0, that of sqrt is not
    return (norms - 1).square().mean()


def _shifted_and_flipped(images: Tensor, uniform: Uniform) -> Tensor:
    height, width = images.shape[2:]
    flipped, shift = uniform(1) < 0.5, uniform(2)
    rows = _reflected(shift[:, :1], height)
    columns = _reflected(shift[:, 1:], width)
    columns = torch.where(flipped, width - 1 - columns, columns)
    return images.take_along_dim(rows[:, None, :, None], dim=2).take_along_dim(columns[:, None, None, :], dim=3)


def _reflected(shift: Tensor, side: int) -> Tensor:
    """Where the pixels of a side come from `(N, side)`, shifted by at most an eighth; `shift` is U[0, 1) `(N, 1)`."""
    most = side // 8
    place = torch.arange(side, device=shift.device) + (shift * (2 * most + 1)).long() - most
    return side - 1 - (side - 1 - place.abs()).abs()


def _squared_products(rows: Tensor) -> Tensor:
    """Sum of the squared products of all pairs of different rows `(n, m)`."""
    with torch.autocast(rows.device.type, enabled=False):
        if len(rows) <= rows.shape[1]:
            gram = rows @ rows.T
            return (gram - gram.diagonal().diag()).square().sum()
        # |W W^T|_F = |W^T W|_F, and the smaller matrix fits (BigGAN's first layer is 24576 x 20)
        return (rows.T @ rows).square().sum() - rows.square().sum(dim=1).square().sum()


PENALTIES: dict[str, Penalty] = {
    "r1": r1,
    "r2": r2,
    "gradient-penalty": gradient_penalty,
    "dragan": dragan,
    "consistency": consistency,
}
LOGIT_PENALTIES: dict[str, LogitPenalty] = {"lecam": lecam}
GENERATOR_PENALTIES: dict[str, GeneratorPenalty] = {"path-length": path_length}
WEIGHT_PENALTIES: dict[str, WeightPenalty] = {"orthogonal": orthogonal}
