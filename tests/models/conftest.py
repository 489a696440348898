import pytest
import torch


@pytest.fixture
def uncompiled_flex_attention(monkeypatch):
    """FlexAttention as its definition, without the compiler, which takes half a minute a shape on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    from diffusers_mvcustom.models import flex_windows

    eager = torch.compile(flex_attention, backend="eager")
    monkeypatch.setattr(flex_windows, "_compiled_flex_attention", lambda: eager)
