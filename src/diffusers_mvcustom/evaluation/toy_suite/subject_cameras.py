"""Where the subject is seen from in a picture: the best-matching camera among renders of the true subject.

For every direction of a grid the true subject is rendered alone. A picture is explained by one of these renders at some
place and size, and by anything else around it: the score is the log-likelihood ratio of "this pixel shows the subject
as rendered" against "this pixel shows what is farther away from the place", whose colours are counted, summed over the
render's mask (the region-based likelihood of model-based tracking). Small or plain renders win nothing by it, and
surroundings need not be known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras import Cameras
from ...geometry import project
from ...toy import Scene, render
from ...toy.scene import FIELD_OF_VIEW, Light

WORST_DEGREES = 180.0
RIGHT_DEGREES = 15.0
RIGHT_OFFSET = 0.1
"""A view is right if its direction is within 15° and the subject's place within a tenth of the picture's side."""

_AZIMUTH_STEP = 10.0
_ELEVATIONS = (5.0, 16.0, 27.0, 38.0)
_RADIUS = 0.95
_SCALES = (0.85, 1.0, 1.18)
_REACH = (20, 6)
"""How far from the middle the subject is looked for, in pixels of a picture of 64 × 64: across, and up and down."""
_SPREAD = 0.1
_OUTLIERS = 0.05
_BRIGHTNESS = (0.6, 1.6)
_TINT = 1.25
_LEAST_EVIDENCE = 0.6
"""Mean log-likelihood ratio of a pixel below which the subject counts as not found."""
_BINS = 8
_UNKNOWN_COLORS = 0.3
"""How much of the surroundings' density is spread evenly over all colours."""
_SUBJECT_RADIUS = 0.44
"""How far from its middle the subject may reach, as a share of the picture's side."""


@dataclass(frozen=True, eq=False)
class SubjectGallery:
    """Renders of one subject alone from K directions.

    Args:
        images (`torch.Tensor` of shape `(K, 3, S, S)`): RGB in [0, 1].
        masks (`torch.Tensor` of shape `(K, 1, S, S)`): 1 where the subject is.
        directions (`torch.Tensor` of shape `(K, 3)`): Unit vectors from the subject to the cameras.
    """

    images: Tensor  # [K, 3, S, S]
    masks: Tensor  # [K, 1, S, S]
    directions: Tensor  # [K, 3]

    @classmethod
    def of(cls, scene: Scene, size: int = 64) -> SubjectGallery:
        """Renders the subject of a scene in a light of its colours from no side: no prompt says which."""
        alone = replace(scene, objects=(), light=_from_all_sides(scene.light))
        count = round(360 / _AZIMUTH_STEP)
        rings = [
            Cameras.orbit(
                count, elevation=elevation, radius=_RADIUS, field_of_view=FIELD_OF_VIEW, height=size, width=size
            )
            for elevation in _ELEVATIONS
        ]
        cameras = Cameras.cat(rings)
        views = render(alone, cameras, shadows=False)
        return cls(views.images, views.masks, F.normalize(cameras.centers, dim=-1))


@dataclass(frozen=True)
class FoundSubject:
    """Where a picture shows the subject.

    Args:
        direction (`torch.Tensor` of shape `(3,)`): Unit vector from the subject to the camera, in the subject frame.
        offset (`tuple` of `float`): Where the subject's middle is, in pixels right of and below the picture's middle.
        evidence (`float`): Mean log-likelihood ratio over the pixels of the render's mask.
    """

    direction: Tensor  # [3]
    offset: tuple[float, float]
    evidence: float

    @property
    def is_found(self) -> bool:
        """Whether the picture shows the subject at all."""
        return self.evidence >= _LEAST_EVIDENCE


def find_subject(
    image: Tensor,  # [3, S, S]
    gallery: SubjectGallery,
) -> FoundSubject:
    """The render, place and size that explain a picture best: coarse at half resolution, then fine.

    Args:
        image (`torch.Tensor` of shape `(3, S, S)`): RGB in [0, 1].
        gallery ([`SubjectGallery`]): Of the same size.
    """
    size = image.shape[-1]
    half_image = F.avg_pool2d(image, 2)
    images, masks = F.avg_pool2d(gallery.images, 2), F.avg_pool2d(gallery.masks, 2)
    # 1. Where: a few directions at every other place, then around the best places.
    count = round(360 / _AZIMUTH_STEP)
    few = [ring * count + turn for ring in (1, 2) for turn in range(0, count, 3)]

    def best_places(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
        values = [_evidence(half_image, images[few], masks[few], place).amax() for place in places]
        return [places[n] for n in torch.stack(values).topk(min(3, len(places))).indices.tolist()]

    across, down = (round(reach * size / 128) for reach in _REACH)
    rough = best_places([(x, y) for y in range(-down, down + 1, 2) for x in range(-across, across + 1, 2)])
    best = best_places(sorted({(x + i, y + j) for x, y in rough for i in (-1, 0, 1) for j in (-1, 0, 1)}))
    # 2. From where: all directions and sizes at the best places.
    candidates = []
    for scale in _SCALES:
        scaled = (images, masks) if scale == 1 else (_zoomed(images, scale), _zoomed(masks, scale))
        for place in best:
            values = _evidence(half_image, *scaled, place)
            top = values.topk(4)
            candidates += [(v, k, scale, place) for v, k in zip(top.values.tolist(), top.indices.tolist())]
    candidates = sorted(candidates, key=lambda candidate: -candidate[0])[:6]
    # 3. Fine: pixels of the full picture around the best ones.
    found: tuple[float, int, tuple[int, int], float] | None = None
    for _, k, scale, (x, y) in candidates:
        one, mask = gallery.images[k : k + 1], gallery.masks[k : k + 1]
        if scale != 1:
            one, mask = _zoomed(one, scale), _zoomed(mask, scale)
        for shift in [(2 * x + i, 2 * y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
            value = _evidence(image, one, mask, shift).item()
            if found is None or value > found[0]:
                found = value, k, shift, mask.sum().item()
    assert found is not None  # every gallery has candidates
    value, k, shift, area = found
    return FoundSubject(gallery.directions[k], (float(shift[0]), float(shift[1])), value / max(area, 1.0))


@dataclass(frozen=True)
class SubjectCameraErrors:
    """Errors of N views.

    Args:
        degrees (`torch.Tensor` of shape `(N,)`): Between the found and the target's viewing direction; 180 where the
            subject was not found.
        offset (`torch.Tensor` of shape `(N,)`): Distance of the subject's middle from where the target camera puts it, as a
            share of the picture's side; infinite where it was not found.
    """

    degrees: Tensor  # [N]
    offset: Tensor  # [N]

    def right(self) -> Tensor:
        """Which views are right, `(N,)`; see [`RIGHT_DEGREES`] and [`RIGHT_OFFSET`]."""
        return (self.degrees < RIGHT_DEGREES) & (self.offset < RIGHT_OFFSET)


def subject_camera_errors(
    images: Tensor,  # [N, 3, S, S]
    cameras: Cameras,
    gallery: SubjectGallery,
) -> SubjectCameraErrors:
    """Compares where views show the subject from with where they should; see [`find_subject`]."""
    size = images.shape[-1]
    middles, _ = project(torch.zeros(1, 3), cameras.world_to_camera.float(), cameras.intrinsics.float())
    degrees, offsets = [], []
    for image, camera, middle in zip(images.float(), cameras, middles[:, 0]):
        found = find_subject(image, gallery)
        if not found.is_found:
            degrees.append(WORST_DEGREES)
            offsets.append(math.inf)
            continue
        wanted = F.normalize(camera.centers[0].float(), dim=-1)
        cosine = (wanted * found.direction).sum().clamp(-1, 1)
        degrees.append(torch.rad2deg(torch.acos(cosine)).item())
        place = torch.tensor(found.offset) + size / 2
        offsets.append(((place - middle).norm() / size).item())
    return SubjectCameraErrors(torch.tensor(degrees), torch.tensor(offsets))


def _evidence(image: Tensor, renders: Tensor, masks: Tensor, shift: tuple[int, int]) -> Tensor:
    """Sum of log-likelihood ratios for renders `(K, 3, s, s)` moved by `shift`, `(K,)`."""
    inside = _moved(torch.ones_like(image[:1]), shift)
    image = _moved(image, shift)
    elsewhere = _surroundings_log_density(image, inside)
    weights = masks * inside  # [K, 1, s, s]; what lies outside of the picture is as likely either way
    total = weights.sum(dim=(2, 3)).clamp(min=1e-3)  # [K, 1]
    seen = (weights * image).sum(dim=(2, 3)) / total  # [K, 3]
    shown = (weights * renders).sum(dim=(2, 3)) / total
    gain = seen / shown.clamp(min=1e-3)
    brightness = gain.mean(dim=1, keepdim=True).clamp(*_BRIGHTNESS)
    gain = brightness * (gain / brightness).clamp(1 / _TINT, _TINT)
    error = (image - renders * gain[:, :, None, None]).abs().mean(dim=1, keepdim=True)
    peak = 1 / (2 * _SPREAD) ** 3
    likely = ((1 - _OUTLIERS) * peak * torch.exp(-3 * error / _SPREAD) + _OUTLIERS).log()
    return (weights * (likely - elsewhere)).sum(dim=(1, 2, 3))


def _surroundings_log_density(image: Tensor, inside: Tensor) -> Tensor:
    """Log-density of each pixel's colour among those far from the middle, `(1, s, s)`, from a smoothed histogram."""
    side = image.shape[-1]
    away = (torch.arange(side) + 0.5 - side / 2).square()
    counted = ((away[:, None] + away > (_SUBJECT_RADIUS * side) ** 2) * inside[0]).flatten()
    cells = (image * _BINS).long().clamp(0, _BINS - 1)
    flat = ((cells[0] * _BINS + cells[1]) * _BINS + cells[2]).flatten()
    histogram = torch.bincount(flat, counted, minlength=_BINS**3).float().view(1, 1, _BINS, _BINS, _BINS)
    smooth = F.avg_pool3d(F.pad(histogram, (1,) * 6, mode="replicate"), 3, stride=1)
    known = (histogram + smooth) / 2 / counted.sum().clamp(min=1) * _BINS**3
    density = (1 - _UNKNOWN_COLORS) * known + _UNKNOWN_COLORS
    return density.flatten()[flat].log().view(1, side, side)


def _from_all_sides(light: Light) -> Light:
    """The light without its side: two thirds from above, some of the rest from everywhere, as on average over its sides."""
    red, green, blue = (low + 0.2 * high for low, high in zip(light.ambient, light.sun))
    sun_red, sun_green, sun_blue = (0.65 * high for high in light.sun)
    return replace(light, direction=(0.0, 1.0, 0.0), sun=(sun_red, sun_green, sun_blue), ambient=(red, green, blue))


def _moved(value: Tensor, shift: tuple[int, int]) -> Tensor:
    """The picture's content moved by `-shift`, zeros outside: what lies at `shift` comes to the middle."""
    x, y = shift
    height, width = value.shape[-2:]
    padded = F.pad(value, (max(-x, 0), max(x, 0), max(-y, 0), max(y, 0)))
    return padded[..., max(y, 0) : max(y, 0) + height, max(x, 0) : max(x, 0) + width]


def _zoomed(value: Tensor, scale: float) -> Tensor:
    """Images about their middle, `scale` times as large."""
    theta = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]], dtype=value.dtype).expand(len(value), 2, 3)
    grid = F.affine_grid(theta, list(value.shape), align_corners=False)
    return F.grid_sample(value, grid, align_corners=False)
