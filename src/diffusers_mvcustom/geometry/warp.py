"""`FeatureWarp`: an anchor's feature map rendered into other cameras by a gather and a weighted sum."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from .feature_mesh import DEFAULT_DISCONTINUITY, FeatureMesh, feature_mesh_from_depth
from .rasterizer import Rasterization, rasterize


@dataclass(frozen=True, eq=False)
class FeatureWarp:
    """For every pixel of N target views: which three pixels of the source grid it sees, and how much of each.

    Geometry does not change while features are denoised, so a warp is built once per resolution and applied in every
    step (MVCustom's depth-aware feature rendering: `F_n^a` is the warped map, `M_n^a` is `visibility`).

    Args:
        indices (`torch.Tensor` of shape `(N, H * W, 3)`, int64): Pixels of the flattened source grid.
        weights (`torch.Tensor` of shape `(N, H * W, 3)`): Their weights, with sum 1; 0 where nothing is visible.
        visibility (`torch.Tensor` of shape `(N, H, W)`, bool): Where the target sees what the anchor saw.
        depth (`torch.Tensor` of shape `(N, H, W)`):
            z-depth of the nearest surface in the target camera, seen from the front or not; infinite where there is
            none.
        source_size (`tuple` of `int`, *optional*):
            Height and width of the source grid. When given, features of any other size are refused.
    """

    indices: Tensor  # [N, H * W, 3]
    weights: Tensor  # [N, H * W, 3]
    visibility: Tensor  # [N, H, W]
    depth: Tensor  # [N, H, W]
    source_size: tuple[int, int] | None = None

    @classmethod
    def from_rasterization(cls, rasterization: Rasterization, mesh: FeatureMesh) -> FeatureWarp:
        """The warp from the grid of `mesh` into the views that `rasterization` holds."""
        visibility = rasterization.visibility
        faces = rasterization.face_index.clamp(min=0)
        seen = visibility[..., None]
        corners = mesh.faces[faces] if len(mesh.faces) else mesh.faces.new_zeros(*faces.shape, 3)
        indices = torch.where(seen, corners, torch.zeros_like(corners))
        weights = torch.where(seen, rasterization.barycentrics, torch.zeros_like(rasterization.barycentrics))
        return cls(
            indices=indices.flatten(1, 2),
            weights=weights.flatten(1, 2),
            visibility=visibility,
            depth=rasterization.depth,
            source_size=(mesh.height, mesh.width),
        )

    @classmethod
    def from_depth(
        cls,
        depth: Tensor,  # [h, w]
        anchor_camera: Cameras,
        cameras: Cameras,
        *,
        discontinuity: float = DEFAULT_DISCONTINUITY,
        valid: Tensor | None = None,  # [h, w]
        near: float = 1e-6,
    ) -> FeatureWarp:
        """The warp from an anchor's feature grid, given its z-depth, into N cameras.

        Args:
            depth (`torch.Tensor` of shape `(h, w)`): z-depth at the grid's pixel centres, in world units.
            anchor_camera (`Cameras`): One camera, at the grid's resolution `h` × `w`.
            cameras (`Cameras`): N target cameras of any one image size.
            discontinuity, valid: See [`feature_mesh_from_depth`].
            near: See [`rasterize`].

        Raises:
            MVCustomError: if shapes do not fit or a depth is not finite and positive.

        Example:

            >>> import torch
            >>> from diffusers_mvcustom.cameras import Cameras
            >>> from diffusers_mvcustom.geometry import FeatureWarp
            >>> camera = Cameras.from_focal(torch.eye(4)[None], 8.0, height=3, width=4)
            >>> warp = FeatureWarp.from_depth(torch.full((3, 4), 2.0), camera, camera)
            >>> features = torch.arange(12.0).reshape(1, 3, 4)
            >>> torch.allclose(warp.warp(features)[0], features)
            True
        """
        mesh = feature_mesh_from_depth(depth, anchor_camera, discontinuity=discontinuity, valid=valid)
        return cls.from_rasterization(rasterize(mesh, cameras, near=near), mesh)

    def for_noise(self) -> FeatureWarp:
        """The warp that keeps white noise white in strength: weights of square sum 1, where those of features have sum 1.

        Independent numbers of variance 1 come out with variance 1 at every pixel. Where the source is magnified, neighbours
        share numbers.
        """
        length = self.weights.square().sum(dim=-1, keepdim=True).sqrt()
        return replace(self, weights=torch.where(length > 0, self.weights / length, self.weights))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> FeatureWarp:
        """The warp on another device, or with weights and depth in another floating dtype.

        Weights of half precision do not sum to 1; there is no need for them, as float32 weights take features of any
        dtype.
        """
        return replace(
            self,
            indices=self.indices.to(device=device),
            weights=self.weights.to(device=device, dtype=dtype),
            visibility=self.visibility.to(device=device),
            depth=self.depth.to(device=device, dtype=dtype),
        )

    def warp(
        self,
        features: Tensor,  # [..., C, h, w]
    ) -> Tensor:
        """Renders source features into all N views; zero where nothing is visible. Differentiable in the features.

        Sums in float32 (or float64 features in float64) and returns the features' dtype. The result is a view in
        channels-last order, as the sum makes it.

        Args:
            features (`torch.Tensor` of shape `(..., C, h, w)`): Source maps, with any leading dimensions.

        Returns:
            `torch.Tensor` of shape `(..., N, C, H, W)`.

        Raises:
            MVCustomError: if the maps are not of the source grid's size, or not of a floating dtype.
        """
        if features.ndim < 3 or not features.is_floating_point():
            raise MVCustomError(
                f"features: expected floating point maps of shape (..., C, h, w), got {features.dtype} of shape "
                f"{tuple(features.shape)}."
            )
        if self.source_size is not None and tuple(features.shape[-2:]) != self.source_size:
            raise MVCustomError(
                f"features: expected maps of the warp's source size {self.source_size}, got "
                f"{tuple(features.shape[-2:])}. A warp serves one resolution."
            )
        *leading, channels, height, width = features.shape
        count, out_height, out_width = self.visibility.shape
        dtype = torch.promote_types(features.dtype, torch.float32)
        # All leading dimensions ride along as channels, so that one row holds all that a source pixel gives. Rows must
        # lie in one piece: a sum over strided rows takes several times as long.
        rows = features.to(dtype).reshape(-1, channels, height * width).permute(2, 0, 1).flatten(1).contiguous()
        rendered = F.embedding_bag(
            self.indices.flatten(0, 1), rows, mode="sum", per_sample_weights=self.weights.flatten(0, 1).to(dtype)
        )
        rendered = rendered.to(features.dtype).reshape(count, out_height, out_width, -1, channels)
        return rendered.permute(3, 0, 4, 1, 2).reshape(*leading, count, channels, out_height, out_width)
