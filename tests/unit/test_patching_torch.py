"""New code in place of old in modules and autograd functions of PyTorch."""

import pytest
import torch

from tests.unit.test_patching import Edited, loaded_modules  # noqa: F401

pytestmark = [pytest.mark.unit, pytest.mark.tier("test")]  # needs PyTorch


def test_torch_modules_keep_hooks_buffers_and_autograd_functions() -> None:
    edited = Edited("""
        import torch
        from torch import nn
        SCALE = 2.0
        class Twice(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x * 2
            @staticmethod
            def backward(ctx, grad): return grad * 2
        class Net(nn.Module):
            calls = 0
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(2, 2)
                self.register_buffer("mean", torch.zeros(2))
                self.layer.register_forward_hook(self.watch)
            def watch(self, module, args, out):
                Net.calls += 1
                return out * SCALE
            def forward(self, x): return Twice.apply(self.layer(x))
        TAG = "old"
    """)
    m = edited.module
    net, twice = m.Net(), m.Twice
    x = torch.ones(1, 2)
    plain = net.layer.weight.sum(1) + net.layer.bias
    assert torch.allclose(net(x), plain * 4)
    edited.replace("return x * 2", "return x * 3", "grad * 2", "grad * 5", "out * SCALE", "out * -SCALE")
    assert m.Twice is twice and isinstance(net, m.Net) and m.Net.calls == 1
    assert torch.allclose(net(x), plain * -6) and m.Net.calls == 2
    net.layer.bias.grad = None
    net(x).sum().backward()
    assert torch.equal(net.layer.bias.grad, torch.full((2,), -10.0))
    edited.replace("SCALE = 2.0", "SCALE = 1.0", "def forward(self, x)", "def forward(self, x, y=0)")
    assert torch.allclose(net(x), plain * -3) and edited.warnings == [] and m.Net.calls == 4


def test_tensors_of_a_class_of_their_own_follow_it() -> None:
    edited = Edited("""
        import torch
        class Points(torch.Tensor):
            unit = "m"
            def norm_text(self): return f"{float(self.norm()):.0f}{self.unit}"
        class Weight(torch.nn.Parameter):
            decay = 1
    """)
    m = edited.module
    points, weight = torch.tensor([3.0, 4.0]).as_subclass(m.Points), m.Weight(torch.zeros(1))
    edited.replace('unit = "m"', 'unit = "km"', "decay = 1", "decay = 2")
    assert points.norm_text() == "5km" and weight.decay == 2 and type(points * 2) is m.Points
    assert type(weight) is m.Weight and edited.warnings == []
