"""Renders scenes: colour, exact depth, subject mask, and which thing every pixel shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry.rays import camera_rays, pixel_centers
from .attributes import MAX_OBJECTS
from .ray_casting import Solids, cast_rays, local_points, surface_normals
from .scene import FIRST_OBJECT, GROUND, SKY, SUBJECT, Scene
from .sky_and_ground import ground_colors, sky_colors
from .textures import texture_colors

SKY_RADIUS = 30.0
"""Radius of the dome around the origin that the sky is painted on: far, yet every pixel has a depth."""

SHOWN = ("pattern", "second_color")
"""Attributes of a subject that only some of its parts show."""

LEAST_SHARES = {"pattern": 0.03, "second_color": 0.005, "objects": 0.01}
"""Of a view's pixels, that the parts which show an attribute, or one of the other objects, have to cover for a person
to tell: 123, 21 and 41 of 64 × 64."""


@dataclass(frozen=True)
class RenderedViews:
    """V views of one scene.

    Args:
        images (`torch.Tensor` of shape `(V, 3, H, W)`): RGB in [0, 1].
        depth (`torch.Tensor` of shape `(V, 1, H, W)`): Exact z-depth at pixel centres, in world units.
        masks (`torch.Tensor` of shape `(V, 1, H, W)`): 1 where the pixel's centre shows the subject, else 0.
        index (`torch.Tensor` of shape `(V, 1, H, W)`, int64): What the pixel's centre shows: 0 sky, 1 ground,
            2 subject, from 3 on the scene's other objects.
        shows (`torch.Tensor` of shape `(V, 1, H, W)`, int64): Which attribute of the subject the pixel's centre shows:
            0 none, from 1 on those of `SHOWN`.
        cameras ([`Cameras`]): Where from.
    """

    images: Tensor  # [V, 3, H, W]
    depth: Tensor  # [V, 1, H, W]
    masks: Tensor  # [V, 1, H, W]
    index: Tensor  # [V, 1, H, W]
    shows: Tensor  # [V, 1, H, W]
    cameras: Cameras

    def shares(self) -> Tensor:
        """Shares of the pixels that show each of `SHOWN` and then each of `MAX_OBJECTS` other objects: `(V, 2 + 2)`."""
        masks = [self.shows == which + 1 for which in range(len(SHOWN))]
        masks += [self.index == FIRST_OBJECT + which for which in range(MAX_OBJECTS)]
        return torch.stack([mask.float().mean(dim=(1, 2, 3)) for mask in masks], dim=1)

    def visible_objects(self, least_share: float = LEAST_SHARES["objects"]) -> Tensor:
        """How many of the other objects each view shows in at least this share of its pixels: `(V,)`, int64."""
        return (self.shares()[:, len(SHOWN) :] >= least_share).sum(1)

    def unseen(self, view: int) -> set[str]:
        """Those of `SHOWN` that a view does not show enough of to be named, see [`unseen_attributes`]."""
        return unseen_attributes(self.shares()[view].tolist())


def unseen_attributes(shares: Sequence[float]) -> set[str]:
    """Those of `SHOWN` that a view, of [`RenderedViews.shares`] `(2 + 2,)`, shows less of than `LEAST_SHARES`."""
    return {name for name, share in zip(SHOWN, shares) if share < LEAST_SHARES[name]}


@torch.no_grad()
def render(scene: Scene, cameras: Cameras, *, supersampling: int = 2, shadows: bool = True) -> RenderedViews:
    """Renders a scene by exact ray casting.

    Args:
        scene ([`Scene`]): What to render.
        cameras ([`Cameras`]): V cameras; device and dtype of the views are theirs.
        supersampling (`int`, *optional*, defaults to 2): Colours are means over n × n rays a pixel. Depth, mask and
            index are those of the pixel's centre.
        shadows (`bool`, *optional*, defaults to `True`): Whether things keep the sun from each other.

    Raises:
        MVCustomError: if a camera is below the ground or outside the sky.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.toy import render, sample_scene
        >>> views = render(sample_scene("train", 0), Cameras.orbit(2, height=16, width=24))
        >>> views.images.shape, bool(views.masks.any())
        (torch.Size([2, 3, 16, 24]), True)
    """
    if isinstance(supersampling, bool) or supersampling < 1:
        raise MVCustomError(f"supersampling: expected a whole number of at least 1, got {supersampling!r}.")
    centers = cameras.centers
    if (centers[:, 1] <= scene.ground.height).any() or (centers.norm(dim=-1) >= SKY_RADIUS).any():
        raise MVCustomError(
            f"cameras: expected centres above the ground (y > {scene.ground.height:.3f}) and within {SKY_RADIUS} of "
            f"the origin, got heights from {centers[:, 1].min().item():.3f}."
        )
    world = _World(scene, cameras)
    views, height, width = len(cameras), cameras.height, cameras.width
    rows, columns = height * supersampling, width * supersampling
    fine = cameras.resize(rows, columns)
    colors = world.colors(world.trace(fine), shadows)
    images = colors.view(views, height, supersampling, width, supersampling, 3).mean(dim=(2, 4)).permute(0, 3, 1, 2)
    traced = world.trace(cameras)
    depth = traced.t.view(views, 1, height, width)
    index = traced.index.view(views, 1, height, width)
    shows = world.shows(traced).view(views, 1, height, width)
    return RenderedViews(images.clamp(0, 1), depth, (index == SUBJECT).to(depth.dtype), index, shows, cameras)


@dataclass(frozen=True)
class _Traced:
    """What R rays hit."""

    directions: Tensor  # [R, 3]
    points: Tensor  # [R, 3]
    t: Tensor  # [R]
    solids: Tensor  # [R], -1 where it is ground or sky
    index: Tensor  # [R]


class _World:
    """A scene's solids on the cameras' device."""

    def __init__(self, scene: Scene, cameras: Cameras) -> None:
        self.scene = scene
        things = [scene.subject, *scene.objects]
        each = [thing.solids() for thing in things]
        names = ("shapes", "centers", "rotations", "half_extents")
        solids = Solids(*(torch.cat([getattr(one, name) for one in each]) for name in names))
        self.solids = solids.to(cameras.device, cameras.dtype)
        owners = [SUBJECT + number for number, one in enumerate(each) for _ in range(len(one))]
        self.owners = torch.tensor(owners, device=cameras.device)
        self.textures = [texture for thing in things for texture in thing.textures()]

    def trace(self, cameras: Cameras) -> _Traced:
        """What the rays through all pixel centres of all cameras hit."""
        pixels = pixel_centers(cameras.height, cameras.width, device=cameras.device, dtype=cameras.dtype)
        origins, directions = camera_rays(
            cameras.camera_to_world, cameras.intrinsics, pixels.view(1, -1, 2), normalize=False
        )
        origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
        hits = cast_rays(origins, directions, self.solids)
        ground = (self.scene.ground.height - origins[:, 1]) / directions[:, 1]
        ground = torch.where(directions[:, 1] < 0, ground, torch.inf)
        along, reach = (origins * directions).sum(-1), directions.square().sum(-1)
        beyond = SKY_RADIUS**2 - origins.square().sum(-1)
        sky = ((along.square() + reach * beyond).sqrt() - along) / reach
        t = torch.minimum(torch.minimum(hits.t, ground), sky)
        on_solid = hits.t <= t
        index = torch.where(ground <= t, GROUND, SKY)
        index = torch.where(on_solid, self.owners[hits.solids.clamp(min=0)], index)
        solids = torch.where(on_solid, hits.solids, -1)
        return _Traced(directions, origins + t[:, None] * directions, t, solids, index)

    def shows(self, traced: _Traced) -> Tensor:
        """Which attribute of the subject every ray hits, `(R,)`: 0 none, from 1 on those of `SHOWN`."""
        each = [1 + SHOWN.index(texture.shows) if texture.shows else 0 for texture in self.textures]
        table = torch.tensor([0, *each], device=traced.solids.device)
        return table[traced.solids + 1]

    def colors(self, traced: _Traced, shadows: bool) -> Tensor:
        """Colours of all rays, `(R, 3)`."""
        light, ground = self.scene.light, self.scene.ground
        colors = torch.empty_like(traced.points)
        normals = torch.zeros_like(traced.points)
        on_sky = (traced.index == SKY).nonzero().squeeze(1)
        on_ground = (traced.index == GROUND).nonzero().squeeze(1)
        on_solid = (traced.solids >= 0).nonzero().squeeze(1)
        colors[on_sky] = sky_colors(traced.points[on_sky] / SKY_RADIUS, light, ground, self.scene.sky_seed)
        colors[on_ground] = ground_colors(traced.points[on_ground], traced.t[on_ground], ground)
        normals[on_ground, 1] = 1.0
        which = traced.solids[on_solid]
        local = local_points(traced.points[on_solid], which, self.solids)
        colors[on_solid] = texture_colors(local * self.solids.half_extents[which], which, self.textures)
        normals[on_solid] = surface_normals(local, which, self.solids)
        lit = torch.cat([on_ground, on_solid])
        colors[lit] = colors[lit] * self._light(traced.points[lit], normals[lit], shadows)
        haze = (1 - torch.exp(-traced.t[on_ground] / 12.0))[:, None]  # the plane fades into the horizon
        colors[on_ground] = colors[on_ground] * (1 - haze) + haze * colors.new_tensor(light.horizon)
        return colors

    def _light(self, points: Tensor, normals: Tensor, shadows: bool) -> Tensor:
        light = self.scene.light
        sun = points.new_tensor(light.direction)
        facing = (normals * sun).sum(-1).clamp(min=0)
        if shadows:
            exposed = (facing > 0).nonzero().squeeze(1)
            start = points[exposed] + normals[exposed] * 2e-3
            blocked = cast_rays(start, sun.expand_as(start), self.solids).t.isfinite()
            facing[exposed[blocked]] = 0.0
        sky_share = 0.75 + 0.25 * normals[:, 1:2]
        return points.new_tensor(light.ambient) * sky_share + points.new_tensor(light.sun) * facing[:, None]
