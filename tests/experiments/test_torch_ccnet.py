import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments.torch_ccnet import NETWORKS, criss_cross_attention  # noqa: E402


def gathered(query, key, value):
    """The definition: the keys of each pixel are gathered, itself once."""
    b, _, h, w = query.shape
    y, x = torch.arange(h * w) // w, torch.arange(h * w) % w
    row = y[:, None] * w + torch.arange(w)
    others = torch.arange(h - 1).expand(h * w, -1)
    others = others + (others >= y[:, None])
    keys = torch.cat([row, others * w + x[:, None]], 1)  # [h * w, h + w - 1]
    query, key, value = (x.flatten(2) for x in (query, key, value))
    weights = torch.einsum("bdp,bdpk->bpk", query, key[:, :, keys]).softmax(-1)
    return torch.einsum("bpk,bcpk->bcp", weights, value[:, :, keys]).view(b, -1, h, w)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (5, 7), (8, 8)])
def test_attention_is_the_definition_with_its_gradients(size):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, *size) for channels in (3, 3, 4)]
    arrays = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    got, want = criss_cross_attention(*arrays), gathered(*arrays)
    torch.testing.assert_close(got, want)
    upstream = torch.randn(got.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(
        torch.autograd.grad(got, arrays, upstream), torch.autograd.grad(want, arrays, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("flavour", NETWORKS)
def test_uint8_images_without_the_auxiliary_head(flavour):
    model = NETWORKS[flavour](5, 10, 0.125).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 33, 47), np.uint8))
    with torch.inference_mode():
        both, floating = model(images), model(images.float())
        main, auxiliary = model(images, auxiliary=False)
        small, _ = model(images, auxiliary=False, upsample=False)
    assert auxiliary is None
    torch.testing.assert_close(main, both[0])
    torch.testing.assert_close(main, floating[0])
    assert both[1].shape == main.shape == (1, 5, 33, 47)
    assert small.shape[2:] == (5, 6) if flavour == "mmseg" else small.shape[2] < 33
