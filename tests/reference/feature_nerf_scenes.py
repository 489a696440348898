"""Small scenes for tests of FeatureNeRF."""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from diffusers_mvcustom.models import (
    FeatureNeRF,
    FeatureNeRFConfig,
    PoseConditionedTransformerBlock,
    PoseConditioner,
    PoseConditioning,
)


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Camera to world (OpenCV axes, world up +Y), `(4, 4)` in float64."""
    eye, target = torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    forward = (target - eye) / (target - eye).norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    right = right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, torch.linalg.cross(forward, right), forward, eye
    return pose


def random_scene(
    batch: int, views: int, targets: int, channels: int, reference_size: tuple[int, int], target_size: tuple[int, int]
) -> dict:
    """Arguments of `FeatureNeRF.forward`, in float64: cameras around the origin, principal points off centre."""
    generator = torch.Generator().manual_seed(batch * 100 + views * 10 + targets)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5

    def cameras(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        poses, intrinsics = [], torch.eye(3, dtype=torch.float64).repeat(batch, count, 1, 1)
        for _ in range(batch * count):
            eye, toward = uniform(3), 0.3 * uniform(3)
            eye = eye / eye.norm() * (0.8 + 0.3 * uniform(1))
            poses.append(look_at(tuple(eye.tolist()), tuple(toward.tolist())))
        intrinsics[..., 0, 0] = width * (1 + 0.3 * uniform(batch, count))
        intrinsics[..., 1, 1] = height * (1 + 0.3 * uniform(batch, count))
        intrinsics[..., 0, 2] = width * (0.5 + 0.3 * uniform(batch, count))
        intrinsics[..., 1, 2] = height * (0.5 + 0.3 * uniform(batch, count))
        return torch.stack(poses).view(batch, count, 4, 4), intrinsics

    reference_poses, reference_intrinsics = cameras(views, *reference_size)
    target_poses, target_intrinsics = cameras(targets, *target_size)
    return {
        "reference_features": 2 * uniform(batch, views, channels, *reference_size),
        "reference_camera_to_world": reference_poses,
        "reference_intrinsics": reference_intrinsics,
        "target_camera_to_world": target_poses,
        "target_intrinsics": target_intrinsics,
        "height": target_size[0],
        "width": target_size[1],
    }


def float_scene(*arguments) -> dict:
    """The same in float32."""
    return {
        name: value.float() if isinstance(value, torch.Tensor) else value
        for name, value in random_scene(*arguments).items()
    }


def perturbed_nerf(channels: int, config: FeatureNeRFConfig, dtype: torch.dtype = torch.float64) -> FeatureNeRF:
    """A FeatureNeRF as after training: no weight is zero."""
    torch.manual_seed(0)
    nerf = FeatureNeRF(channels, config).to(dtype)
    with torch.no_grad():
        nerf.density_and_rgb.weight.normal_()
        nerf.density_and_rgb.bias.normal_(std=0.3)
        nerf.feature_score.weight.mul_(3)
    return nerf


def text_block(channels: int, text_channels: int) -> PoseConditionedTransformerBlock:
    """A pose-conditioned block with random weights, for its text attention."""
    torch.manual_seed(1)
    block = BasicTransformerBlock(channels, 2, channels // 2, cross_attention_dim=text_channels)
    conditioner = PoseConditioner(FeatureNeRF(channels))
    return PoseConditionedTransformerBlock.from_block(block, conditioner, PoseConditioning(), "block")
