"""What a FeatureNeRF accepts: shapes that fit each other."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import MVCustomError

AttendText = Callable[[Tensor, Tensor], Tensor]
"""A block's text attention with its residual: `(N, P, C)` points and `(N, L, D)` texts to `(N, P, C)`."""


def check_feature_nerf_inputs(
    channels: int,
    reference_features: Tensor,  # [B, V, C, h_r, w_r]
    reference_camera_to_world: Tensor,  # [B, V, 4, 4]
    reference_intrinsics: Tensor,  # [B, V, 3, 3]
    target_camera_to_world: Tensor,  # [B, M, 4, 4]
    target_intrinsics: Tensor,  # [B, M, 3, 3]
    height: int,
    width: int,
    reference_masks: Tensor | None,  # [B, V, h_r, w_r]
    encoder_hidden_states: Tensor | None,  # [B, T, L, D]
    attend_text: AttendText | None,
    rays_per_chunk: int | None,
) -> None:
    """Raises for arguments of [`FeatureNeRF`] that do not fit each other or its `channels`; see there for the shapes.

    Raises:
        MVCustomError: naming the argument.
    """
    if reference_features.ndim != 5 or reference_features.shape[2] != channels:
        raise MVCustomError(
            f"reference_features: expected shape (B, V, {channels}, h, w), got {tuple(reference_features.shape)}."
        )
    batch, views = reference_features.shape[:2]
    map_size = tuple(reference_features.shape[-2:])
    targets = target_camera_to_world.shape[1] if target_camera_to_world.ndim == 4 else "M"
    expected = {
        "reference_camera_to_world": (reference_camera_to_world, (batch, views, 4, 4)),
        "reference_intrinsics": (reference_intrinsics, (batch, views, 3, 3)),
        "target_camera_to_world": (target_camera_to_world, (batch, targets, 4, 4)),
        "target_intrinsics": (target_intrinsics, (batch, targets, 3, 3)),
        "reference_masks": (reference_masks, (batch, views, *map_size)),
    }
    for name, (value, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise MVCustomError(f"{name}: expected shape {shape}, got {tuple(value.shape)}.")
    if 0 in reference_features.shape or targets == 0:
        raise MVCustomError("reference_features, target_camera_to_world: expected at least one view and camera.")
    for name, number in (("height", height), ("width", width), ("rays_per_chunk", rays_per_chunk)):
        if number is not None and number < 1:
            raise MVCustomError(f"{name}: expected at least 1, got {number}.")
    if (encoder_hidden_states is None) != (attend_text is None):
        raise MVCustomError("encoder_hidden_states, attend_text: expected both or neither.")
    if encoder_hidden_states is not None and (
        encoder_hidden_states.ndim != 4 or encoder_hidden_states.shape[0] != batch
    ):
        raise MVCustomError(
            f"encoder_hidden_states: expected shape ({batch}, T, L, D), got {tuple(encoder_hidden_states.shape)}."
        )
    if encoder_hidden_states is not None and encoder_hidden_states.shape[1] == 0:
        raise MVCustomError("encoder_hidden_states: expected at least one text.")
