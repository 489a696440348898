"""The geometry of a clip, where it is known: depth and cameras, by which its noise moves with what is seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..files.whole import replaced_file

GEOMETRY_SUFFIX = ".geometry.safetensors"
"""Ending of the file beside a video (or a folder of frames, or in a shard's sample) that holds its geometry."""

_FORMAT = {"format": "mvcustom-clip-geometry-1"}  # one entry: of several the order in the file changes
_FARTHEST = 1e4


@dataclass(frozen=True, eq=False)
class ClipGeometry:
    """Depth and cameras of frames, through which noise is carried from one into the others.

    Not the paper's (docs/training_backbone.md); Go-with-the-Flow (arXiv 2501.08331) trains on noise warped by optical flow.

    Args:
        depth (`torch.Tensor` of shape `(F, h, w)`): z-depth at pixel centres in the cameras' units; infinite is far away.
        cameras ([`Cameras`]): One for each frame, of image size `h` × `w`.
        subject (`torch.Tensor` of shape `(F, h, w)`, *optional*): Opacity of what is left out, such as the subject, whose
            noise stays its own in every frame.
        mirrored (`bool`): Whether the frames that go with it are mirrored left to right; depth and cameras are not.

    Raises:
        MVCustomError: if shapes do not fit, or a depth is not above 0.
    """

    depth: Tensor  # [F, h, w]
    cameras: Cameras
    subject: Tensor | None = None  # [F, h, w]
    mirrored: bool = False

    def __post_init__(self) -> None:
        size = (len(self.cameras), self.cameras.height, self.cameras.width)
        for name, values in (("depth", self.depth), ("subject", self.subject)):
            if values is not None and tuple(values.shape) != size:
                raise MVCustomError(
                    f"{name}: expected shape {size}, that of the cameras and their images, got {tuple(values.shape)}."
                )
        if not bool((self.depth > 0).all()):  # NaN is not above 0 either
            raise MVCustomError("depth: expected z-depth above 0 everywhere (infinite where nothing is near).")

    @classmethod
    def from_bytes(cls, content: bytes) -> ClipGeometry:
        """Reads what [`~ClipGeometry.save`] wrote.

        Raises:
            MVCustomError: if it is damaged, or lacks something.
        """
        try:
            values = load(content)
        except SafetensorError as error:
            raise MVCustomError(f"expected a safetensors file, and this cannot be read: {error}.") from error
        missing = {"depth", "camera_to_world", "intrinsics"} - values.keys()
        if missing:
            raise MVCustomError(
                f"expected depth, camera_to_world and intrinsics; missing: {', '.join(sorted(missing))}."
            )
        if values["depth"].ndim != 3:
            raise MVCustomError(f"depth: expected shape (F, h, w), got {tuple(values['depth'].shape)}.")
        cameras = Cameras(values["camera_to_world"].float(), values["intrinsics"].float(), *values["depth"].shape[-2:])
        subject = values.get("subject")
        return cls(values["depth"].float(), cameras, None if subject is None else subject.float())

    def save(self, path: str | PathLike[str]) -> None:
        """Writes `depth`, `camera_to_world` (OpenCV), `intrinsics` (of the depth's size) and `subject`, if there is one."""
        values = {
            "depth": self.depth,
            "camera_to_world": self.cameras.camera_to_world,
            "intrinsics": self.cameras.intrinsics,
        }
        if self.subject is not None:
            values["subject"] = self.subject
        with replaced_file(Path(path)) as temporary:
            save_file({name: value.contiguous() for name, value in values.items()}, temporary, _FORMAT)

    def frames(self, numbers: list[int]) -> ClipGeometry:
        """That of some frames."""
        return replace(
            self,
            depth=self.depth[numbers],
            cameras=self.cameras[numbers],
            subject=None if self.subject is None else self.subject[numbers],
        )

    def cropped(self, top: float, left: float, height: float, width: float) -> ClipGeometry:
        """That of a crop, given in shares of the frame; at as many pixels as before, depth by the nearest one."""
        rows, columns = self.cameras.height, self.cameras.width
        grid_y = (top + height * (torch.arange(rows) + 0.5) / rows) * 2 - 1
        grid_x = (left + width * (torch.arange(columns) + 0.5) / columns) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(grid_x, grid_y[:, None]), dim=-1).expand(
            len(self.depth), -1, -1, -1
        )

        def sampled(values: Tensor, mode: str) -> Tensor:
            return F.grid_sample(values[:, None], grid, mode=mode, padding_mode="border", align_corners=False)[:, 0]

        offset = torch.tensor([[left * columns], [top * rows]], dtype=self.cameras.dtype)
        scale = torch.tensor([[1 / width], [1 / height]], dtype=self.cameras.dtype)
        intrinsics = self.cameras.intrinsics.clone()
        intrinsics[:, :2, 2:] -= offset
        intrinsics[:, :2] *= scale
        return replace(
            self,
            depth=sampled(self.depth, "nearest"),
            cameras=replace(self.cameras, intrinsics=intrinsics),
            subject=None if self.subject is None else sampled(self.subject, "bilinear"),
        )

    def carried(
        self,
        noise: Tensor,  # [C, F, h, w]
        anchor: int,
    ) -> Tensor:
        """Noise of all frames with the anchor's in the place of what the anchor saw, as depth-aware feature rendering has it.

        Args:
            noise (`torch.Tensor` of shape `(C, F, h, w)`): White noise, of any size.
            anchor (`int`): The frame whose noise is carried into the others.

        Returns:
            `torch.Tensor` of shape `(C, F, h, w)`, of the same variance.
        """
        from ..hooks.anchor_geometry import AnchorGeometry  # brings diffusers along

        depth = self.depth[anchor].clamp(max=_FARTHEST)[None, None]
        geometry = AnchorGeometry(depth, (anchor,), self.cameras, subject=self.subject)
        if self.mirrored:
            return geometry.render_noise(noise.flip(-1)[None])[0].flip(-1)
        return geometry.render_noise(noise[None])[0]
