from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic_capture import FOCAL, HEIGHT, WIDTH, poses, render

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.models.motion_transformer import enable_spatio_temporal_attention
from diffusers_mvcustom.subjects import ReferenceViews, SubjectAdapter


@pytest.fixture(scope="session")
def cube_views() -> ReferenceViews:
    """The synthetic cube's views, without going through files."""
    colors, masks = zip(*(render(pose) for pose in poses()))
    return ReferenceViews(
        torch.from_numpy(np.stack(colors)).permute(0, 3, 1, 2) / 255,
        Cameras.from_focal(torch.from_numpy(poses()).float(), FOCAL, HEIGHT, WIDTH),
        torch.from_numpy(np.stack(masks))[:, None].float(),
        captions=[f"a cube, view {i}" for i in range(len(colors))],
    )


@pytest.fixture
def unet(make_components):
    unet = make_components("tiny", depth_estimator=False)["unet"]
    enable_spatio_temporal_attention(unet, 1)
    return unet


@pytest.fixture
def adapter(unet, cube_views) -> SubjectAdapter:
    """An untrained subject for `unet`, not attached."""
    torch.manual_seed(0)
    return SubjectAdapter.create(unet, cube_views, "<my-cube>", "cube", initializer_token="toy")


@pytest.fixture
def trained(adapter) -> SubjectAdapter:
    """A subject as after training: every weight is off its initial value, with an embedding and LoRA."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    adapter.token_embedding = torch.randn(32, generator=generator)
    target = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    adapter.lora_state_dict = {
        f"{target}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"{target}.lora_B.weight": torch.randn(32, 2, generator=generator),
    }
    return adapter
