"""Exact first hits of rays on boxes, spheres, cylinders, cones and wedges, each stretched, turned and moved freely.

Every solid is a unit solid under an affine map, so a ray is mapped into the solid's own coordinates, where its
parameter `t` stays the same. All five are convex: a ray crosses each in one interval, and its first hit is where that
interval begins (or ends, if the ray starts inside).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import MVCustomError

SHAPES = ("box", "sphere", "cylinder", "cone", "wedge")
"""Unit solids: the cube [-1, 1]³; the unit ball; the cylinder of radius 1 about y, capped at y = ±1; the cone with its
apex at y = 1 and a base of radius 1 at y = -1; the roof-shaped prism |x| ≤ 1, -1 ≤ y ≤ 1 - 2|z|."""

_NEAREST = 1e-5
"""Hits nearer than this (in units of `t`) are not seen, so that a ray from a surface does not hit that surface."""
_TINY = 1e-12


@dataclass(frozen=True)
class Solids:
    """K solids in the world.

    Args:
        shapes (`torch.Tensor` of shape `(K,)`, int64): Index into `SHAPES`.
        centers (`torch.Tensor` of shape `(K, 3)`): Centres in the world.
        rotations (`torch.Tensor` of shape `(K, 3, 3)`): From the solid's axes to the world's.
        half_extents (`torch.Tensor` of shape `(K, 3)`): What the unit solid's axes are multiplied with, above 0.
    """

    shapes: Tensor  # [K]
    centers: Tensor  # [K, 3]
    rotations: Tensor  # [K, 3, 3]
    half_extents: Tensor  # [K, 3]

    def __post_init__(self) -> None:
        count = len(self.shapes)
        for name, tail in (("centers", (3,)), ("rotations", (3, 3)), ("half_extents", (3,))):
            if getattr(self, name).shape != (count, *tail):
                raise MVCustomError(
                    f"{name}: expected shape {(count, *tail)} to match shapes, got {tuple(getattr(self, name).shape)}."
                )
        if count and not (self.half_extents > 0).all():
            raise MVCustomError(f"half_extents: expected numbers above 0, got {self.half_extents.min().item()}.")

    def __len__(self) -> int:
        return len(self.shapes)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Solids:
        """The same solids elsewhere; `shapes` stay integers."""
        rest = (getattr(self, name).to(device, dtype) for name in ("centers", "rotations", "half_extents"))
        return Solids(self.shapes.to(device), *rest)

    @property
    def bounding_radii(self) -> Tensor:
        """Radii `(K,)` of spheres around the centres that hold the solids."""
        x, y, z = self.half_extents.unbind(-1)
        corner = self.half_extents.norm(dim=-1)
        rim = torch.stack([x, z]).amax(dim=0).square().add(y.square()).sqrt()
        ball = self.half_extents.amax(dim=-1)
        return torch.where(self.shapes == 1, ball, torch.where((self.shapes == 2) | (self.shapes == 3), rim, corner))


@dataclass(frozen=True)
class Hits:
    """First hits of R rays.

    Args:
        t (`torch.Tensor` of shape `(R,)`): Ray parameter, in units of the ray's direction; infinite without a hit.
        solids (`torch.Tensor` of shape `(R,)`, int64): Which solid, -1 without a hit.
    """

    t: Tensor  # [R]
    solids: Tensor  # [R]


def cast_rays(
    origins: Tensor,  # [R, 3]
    directions: Tensor,  # [R, 3]
    solids: Solids,
) -> Hits:
    """The first hit of every ray on any of the solids.

    Pairs of a ray and a solid whose bounding sphere it misses are left out before any intersection is computed.

    Args:
        origins (`torch.Tensor` of shape `(R, 3)`): Where rays start.
        directions (`torch.Tensor` of shape `(R, 3)`): Of any length; `t` counts in it. With directions whose z in the
            camera is 1, `t` is the z-depth.
        solids ([`Solids`]): On the rays' device, in their dtype.

    Example:

        >>> import torch
        >>> from diffusers_mvcustom.toy.ray_casting import Solids, cast_rays
        >>> ball = Solids(torch.tensor([1]), torch.zeros(1, 3), torch.eye(3)[None], torch.full((1, 3), 0.5))
        >>> hits = cast_rays(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]), ball)
        >>> hits.t.tolist(), hits.solids.tolist()
        ([1.5], [0])
    """
    nearest = torch.full_like(origins[:, 0], torch.inf)
    found = torch.full((len(origins),), -1, dtype=torch.int64, device=origins.device)
    if len(solids) == 0:
        return Hits(nearest, found)
    ray, solid = _candidates(origins, directions, solids)
    if len(ray) == 0:
        return Hits(nearest, found)
    to_local = (solids.rotations / solids.half_extents[:, None, :]).transpose(1, 2)  # rows: local axes in the world
    local_centers = (to_local @ solids.centers[..., None]).squeeze(-1)
    t = torch.full_like(origins[:1, 0], torch.inf).expand(len(ray)).clone()
    for index in range(len(SHAPES)):
        chosen = (solids.shapes[solid] == index).nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        rays, which = ray[chosen], solid[chosen]
        matrix = to_local[which]
        o = _rows(matrix, origins[rays]) - local_centers[which]
        d = _rows(matrix, directions[rays])
        enter, leave = _INTERVALS[SHAPES[index]](o, d)
        first = torch.where(enter > _NEAREST, enter, leave)
        t[chosen] = torch.where((enter < leave) & (first > _NEAREST), first, torch.inf)
    nearest = nearest.scatter_reduce(0, ray, t, "amin")
    # Of solids that meet a ray at the very same t, the last one listed is taken, on every device.
    winner = (t == nearest[ray]) & t.isfinite()
    found = found.scatter_reduce(0, ray[winner], solid[winner], "amax")
    return Hits(nearest, found)


def local_points(
    points: Tensor,  # [R, 3]
    which: Tensor,  # [R]
    solids: Solids,
) -> Tensor:
    """World points in the unit coordinates of their solids, `(R, 3)`."""
    to_local = (solids.rotations / solids.half_extents[:, None, :]).transpose(1, 2)
    return _rows(to_local[which], points - solids.centers[which])


def surface_normals(
    local: Tensor,  # [R, 3]
    which: Tensor,  # [R]
    solids: Solids,
) -> Tensor:
    """Outward unit normals `(R, 3)` in the world at surface points given in the unit coordinates of their solids."""
    shapes = solids.shapes[which]
    x, y, z = local.unbind(-1)
    zero = torch.zeros_like(x)
    rim = x.square() + z.square()
    box = torch.where(local.abs() == local.abs().amax(dim=-1, keepdim=True), local.sign(), 0.0)
    up_or_down = torch.stack([zero, y.sign(), zero], dim=-1)
    on_cap = (y.abs() - 1).abs() < (rim - 1).abs()
    cylinder = torch.where(on_cap[:, None], up_or_down, torch.stack([x, zero, z], dim=-1))
    slope = (1 - y) / 2
    on_base = (y + 1).abs() < (rim.sqrt() - slope).abs()
    down = torch.stack([zero, -torch.ones_like(y), zero], dim=-1)
    cone = torch.where(on_base[:, None], down, torch.stack([x, slope / 2, z], dim=-1))
    distances = torch.stack([x.abs() - 1, -1 - y, (y - 1 + 2 * z.abs()) / 5**0.5], dim=-1)
    face = distances.argmax(dim=-1)
    wedge = torch.stack(
        [
            torch.where(face == 0, x.sign(), zero),
            torch.where(face == 1, -1.0, torch.where(face == 2, 1.0, zero)),
            torch.where(face == 2, 2 * z.sign(), zero),
        ],
        dim=-1,
    )
    unit = torch.stack([box, local, cylinder, cone, wedge])[shapes, torch.arange(len(local), device=local.device)]
    # A plane's normal maps by the inverse transpose of what maps its points.
    world = (solids.rotations[which] * (unit / solids.half_extents[which])[:, None, :]).sum(dim=-1)
    return world / world.norm(dim=-1, keepdim=True).clamp(min=_TINY)


def _rows(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices * vectors[:, None, :]).sum(dim=-1)


def _candidates(origins: Tensor, directions: Tensor, solids: Solids) -> tuple[Tensor, Tensor]:
    """Indices of rays and solids, pairwise, whose bounding sphere the ray's line passes, with a margin for rounding."""
    radii = solids.bounding_radii * 1.01 + 1e-3
    unit = directions / directions.norm(dim=-1, keepdim=True)
    along = unit @ solids.centers.T - (unit * origins).sum(dim=-1, keepdim=True)  # [R, K]
    distance = (
        origins.square().sum(dim=-1, keepdim=True)
        + (solids.centers.square().sum(dim=-1) - radii.square())
        - 2 * (origins @ solids.centers.T)
    )
    return ((along > -radii) & (along.square() >= distance)).nonzero().unbind(-1)


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where -1 ≤ o + t d ≤ 1."""
    safe = torch.where(d.abs() < _TINY, torch.where(d < 0, -_TINY, _TINY), d)
    first, second = (-1 - o) / safe, (1 - o) / safe
    return torch.minimum(first, second), torch.maximum(first, second)


def _below(value: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Where value + t rate ≤ 0."""
    safe = torch.where(rate.abs() < _TINY, torch.where(rate < 0, -_TINY, _TINY), rate)
    crossing = -value / safe
    enter = torch.where(rate < 0, crossing, -torch.inf)
    return enter, torch.where(rate < 0, torch.inf, crossing)


def _meet(*intervals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    enter, leave = intervals[0]
    for other_enter, other_leave in intervals[1:]:
        enter, leave = torch.maximum(enter, other_enter), torch.minimum(leave, other_leave)
    return enter, leave


def _quadratic(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Roots of a t² + 2 half_b t + c in rising order, without cancellation, and whether they are real."""
    discriminant = half_b.square() - a * c
    root = discriminant.clamp(min=0).sqrt()
    q = -(half_b + torch.where(half_b < 0, -root, root))
    safe_a = torch.where(a.abs() < _TINY, torch.where(a < 0, -_TINY, _TINY), a)
    safe_q = torch.where(q.abs() < _TINY, torch.where(q < 0, -_TINY, _TINY), q)
    first, second = q / safe_a, c / safe_q
    return torch.minimum(first, second), torch.maximum(first, second), discriminant > 0


def _box(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(o, d)
    return enter.amax(dim=-1), leave.amin(dim=-1)


def _sphere(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    first, second, real = _quadratic((d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1)
    return torch.where(real, first, torch.inf), torch.where(real, second, -torch.inf)


def _cylinder(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d.unbind(-1)
    a, c = dx * dx + dz * dz, ox * ox + oz * oz - 1
    first, second, real = _quadratic(a, ox * dx + oz * dz, c)
    parallel = a < _TINY  # inside the mantle for ever, or never
    first = torch.where(parallel, torch.where(c <= 0, -torch.inf, torch.inf), torch.where(real, first, torch.inf))
    second = torch.where(parallel, torch.where(c <= 0, torch.inf, -torch.inf), torch.where(real, second, -torch.inf))
    return _meet((first, second), _slab(oy, dy))


def _cone(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d.unbind(-1)
    height, rate = (1 - oy) / 2, -dy / 2
    a = dx * dx + dz * dz - rate * rate
    first, second, real = _quadratic(a, ox * dx + oz * dz - height * rate, ox * ox + oz * oz - height * height)
    # The double cone's inside is between the roots for a flat ray, and outside of them for a steep one, of which the
    # part below the apex is the solid's.
    flat = a > 0
    enter = torch.where(flat, first, torch.where(dy < 0, second, -torch.inf))
    leave = torch.where(flat, second, torch.where(dy < 0, torch.inf, first))
    never = flat & ~real
    return _meet(
        (torch.where(never, torch.inf, enter), torch.where(never, -torch.inf, leave)),
        _slab(oy, dy),
    )


def _wedge(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    (ox, oy, oz), (dx, dy, dz) = o.unbind(-1), d.unbind(-1)
    return _meet(
        _slab(ox, dx),
        _below(-1 - oy, -dy),
        _below(oy - 1 + 2 * oz, dy + 2 * dz),
        _below(oy - 1 - 2 * oz, dy - 2 * dz),
    )


_INTERVALS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "box": _box,
    "sphere": _sphere,
    "cylinder": _cylinder,
    "cone": _cone,
    "wedge": _wedge,
}
