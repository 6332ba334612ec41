"""The rewrites of the network's layers are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cosmicai.model import rewrites
from inference.engine import astromae

from .test_astromae import SMALL, randomised


def _model(**changes: object) -> astromae.AstroMAE:
    return randomised(replace(SMALL, **changes))  # type: ignore[arg-type]


def test_linear_layers_with_nothing_in_between_merge() -> None:
    torch.manual_seed(0)
    first, second, x = nn.Linear(6, 5), nn.Linear(5, 4), torch.randn(3, 6)
    merged = rewrites.affine(first).then(rewrites.affine(second))
    assert x.numpy() @ merged.weight + merged.bias == pytest.approx(second(first(x)).detach().numpy(), abs=1e-6)


def test_batch_normalisation_folds_into_the_convolution_before_it() -> None:
    model = _model()
    module, x = model.encoder.blocks[0].parallel, torch.randn(2, SMALL.width, 4, 1)
    assert isinstance(module, astromae.ParallelConvolution)
    layer = rewrites.folded(module.expand, module.norm)
    folded = F.conv2d(x.double(), torch.tensor(layer.kernel), torch.tensor(layer.bias), groups=4)
    expected = module.double().norm(module.expand(x.double()))
    assert folded.numpy() == pytest.approx(expected.detach().numpy(), abs=1e-12)


def test_several_last_layers_merge_into_the_layer_that_reads_them_side_by_side() -> None:
    ends = [nn.Linear(3, 2).double(), nn.Linear(4, 5).double(), nn.Linear(1, 3).double()]
    first, hidden = nn.Linear(10, 6).double(), [torch.randn(7, n).double() for n in (3, 4, 1)]
    expected = first(torch.cat([end(h) for end, h in zip(ends, hidden, strict=True)], 1))
    merged = rewrites.merged([rewrites.affine(end) for end in ends], rewrites.affine(first))
    together = torch.cat(hidden, 1).numpy() @ merged.weight + merged.bias
    assert together == pytest.approx(expected.detach().numpy(), abs=1e-12)


def test_an_attentions_scale_goes_into_its_queries() -> None:
    plain, scaled = (
        _model(**changes).encoder.blocks[0].attention for changes in ({}, {"attention_scale": 0.5})
    )
    assert isinstance(plain, astromae.Attention)
    assert isinstance(scaled, astromae.Attention)
    before, after = rewrites.queries_keys_values(plain), rewrites.queries_keys_values(scaled)
    ratio = 0.5 * 8**0.5  # heads of 8
    assert after.weight[:, :16] == pytest.approx(before.weight[:, :16] * ratio, rel=1e-12)
    assert after.bias[:16] == pytest.approx(before.bias[:16] * ratio, rel=1e-12)
    assert np.array_equal(after.weight[:, 16:], before.weight[:, 16:])


def test_the_stem_merges_into_the_first_pointwise_convolutions_but_not_through_the_pool() -> None:
    inception, x = _model().inception.double(), torch.randn(2, 5, 8, 8).double()
    block = inception.blocks[0]
    assert isinstance(block, astromae.InceptionBlock)
    layers = rewrites.inception_layers(block)
    merged = layers.after(rewrites.affine(inception.stem))
    entered, halved = F.avg_pool2d(inception.stem(x), 2), F.avg_pool2d(x, 2)
    assert merged.five is not None
    pairs = [(merged.one, block.one), (merged.three[0], block.three[0]), (merged.five[0], block.five[0])]
    for layer, unit in pairs:
        both = F.conv2d(halved, torch.tensor(layer.kernel), torch.tensor(layer.bias)).relu()
        assert both.numpy() == pytest.approx(unit(entered).detach().numpy(), abs=1e-12)
    assert merged.pooled is layers.pooled
