"""Whether generated views show the photos' subject: compared with the photo of the nearest camera, inside its mask."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..geometry import project
from .metric import Metric
from .neighbour_distance import scores_of
from .pretrained_scores import PairScore
from .views import check_masks, check_views

_MARGIN = 1.1
_GREY = 0.5
_INSIDE = 0.5


def nearest_references(
    cameras: Cameras,
    references: Cameras,
) -> Tensor:
    """For each camera the reference that sees the subject (the origin) from the nearest direction, `(N,)` int64.

    Example:

        >>> from diffusers_mvcustom import Cameras
        >>> from diffusers_mvcustom.evaluation.identity import nearest_references
        >>> nearest_references(Cameras.orbit(3, azimuth=(0, 100)), Cameras.orbit(2, azimuth=(0, 90))).tolist()
        [0, 1, 1]
    """
    directions = F.normalize(cameras.centers.cpu().double(), dim=-1)
    return (directions @ F.normalize(references.centers.cpu().double(), dim=-1).T).argmax(dim=1)


def subject_crops(
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    reference_images: Tensor,  # [K, 3, H', W']
    reference_cameras: Cameras,
    reference_masks: Tensor | None = None,  # [K, 1, H', W']
    *,
    masks: Tensor | None = None,  # [N, 1, H, W]
    size: int = 224,
) -> tuple[Tensor, Tensor, Tensor]:
    """The subject in every view and in its nearest reference, cut out alike; all else is grey.

    The cut is the square around the reference's mask, with a tenth to spare. In the view it is the square that covers as much
    of the plane through the subject's origin, and lies to the origin's image as in the reference, so other lenses and
    distances make no difference. The reference's mask is used for both, unless the views have their own.

    Args:
        images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
        cameras ([`Cameras`]): The target cameras, in the subject frame.
        reference_images (`torch.Tensor` of shape `(K, 3, H', W')`): The photos.
        reference_cameras ([`Cameras`]): Theirs, in the subject frame.
        reference_masks (`torch.Tensor` of shape `(K, 1, H', W')`, *optional*): 1 where the subject is. Without, the whole
            photo is compared.
        masks (`torch.Tensor` of shape `(N, 1, H, W)`, *optional*): Where the views show the subject, if that is known.
        size (`int`, defaults to 224): Side of the cuts in pixels.

    Returns:
        The views' cuts and the references' cuts, both `(N, 3, size, size)`, and which could be made, `(N,)` bool: not if the
        camera has the subject behind it, or if nothing of the cut is in the view.
    """
    check_views(images, cameras)
    check_views(reference_images, reference_cameras)
    if masks is not None:
        check_masks("masks", masks, images)
    if reference_masks is None:
        reference_masks = torch.ones(len(reference_images), 1, *reference_images.shape[2:])
    check_masks("reference_masks", reference_masks, reference_images)
    cameras, reference_cameras = cameras.to("cpu", torch.float64), reference_cameras.to("cpu", torch.float64)
    views, photos, possible = [], [], []
    for i, nearest in enumerate(nearest_references(cameras, reference_cameras).tolist()):
        photo, outline = reference_images[nearest].cpu().float(), reference_masks[nearest].cpu().float()
        lens = _lens_around(outline, reference_cameras.intrinsics[nearest], size, nearest)
        (at,), (z,) = project(
            torch.zeros(1, 3, dtype=torch.float64), reference_cameras[nearest].world_to_camera[0], lens
        )
        own_lens, visible = _lens_alike(cameras[i], lens, at, z), False
        outline = _seen_through(outline, reference_cameras.intrinsics[nearest], lens, size)
        view = torch.full((3, size, size), _GREY)
        if own_lens is not None:
            view = images[i].cpu().float()
            inside = _seen_through(torch.ones_like(view[:1]), cameras.intrinsics[i], own_lens, size)
            own_outline = outline
            if masks is not None:
                own_outline = _seen_through(masks[i].cpu().float(), cameras.intrinsics[i], own_lens, size)
            inside = torch.minimum(inside, own_outline)
            visible = bool((inside > _INSIDE).any())
            view = _GREY + (_seen_through(view, cameras.intrinsics[i], own_lens, size) - _GREY) * inside
        photo = _seen_through(photo, reference_cameras.intrinsics[nearest], lens, size)
        views.append(view)
        photos.append(_GREY + (photo - _GREY) * outline)
        possible.append(visible)
    return torch.stack(views).clamp(0, 1), torch.stack(photos).clamp(0, 1), torch.tensor(possible)


def identity(
    score: PairScore,
    images: Tensor,  # [N, 3, H, W]
    cameras: Cameras,
    *references: Any,
    higher_is_better: bool = False,
    **options: Any,
) -> dict[str, float]:
    """Identity of one set of views; see [`Identity`], and [`subject_crops`] for the references and options."""
    metric = Identity(score, higher_is_better=higher_is_better)
    metric.update(images, cameras, *references, **options)
    return metric.summarize(metric.rows())


class Identity(Metric):
    """Identity preservation: every view against the reference from the nearest camera, inside the mask ([`subject_crops`]).

    - `score`: mean over the views, with the worst value where a view does not show where the subject is;
    - `views`, `views_scored`: the counts.

    A single view that shows the subject well, repeated for all cameras, keeps the identity, and is told apart by the camera
    metrics.

    Args:
        score (callable): Images `(P, 3, H, W)` and as many others to numbers `(P,)`: [`DreamSimDistance`],
            [`Dinov2Similarity`], or your own.
        higher_is_better (`bool`, defaults to `False`): `True` for a similarity.
        worst (`float`, *optional*): What a view counts that cannot be scored; 0 for a similarity, else 1. Worse scores count
            the same.
    """

    columns = ("score", "scored")

    def __init__(self, score: PairScore, *, higher_is_better: bool = False, worst: float | None = None) -> None:
        super().__init__()
        self.score = score
        self.worst = worst if worst is not None else (0.0 if higher_is_better else 1.0)
        self._higher_is_better = higher_is_better

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Whether the score is a similarity."""
        return {"score": self._higher_is_better}

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        cameras: Cameras,
        reference_images: Tensor,  # [K, 3, H', W']
        reference_cameras: Cameras,
        reference_masks: Tensor | None = None,  # [K, 1, H', W']
        **options: Any,
    ) -> None:
        """Adds a set of views; see [`subject_crops`]."""
        views, photos, possible = subject_crops(
            images, cameras, reference_images, reference_cameras, reference_masks, **options
        )
        scores = scores_of(self.score, views, photos)
        self.add_rows(torch.stack([scores, possible.double()], dim=1))

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Mean over all views that could be scored."""
        score, scored = rows.unbind(dim=1)
        score = score.clamp(min=self.worst) if self._higher_is_better else score.clamp(max=self.worst)
        return {
            "score": torch.where(scored > 0, score, self.worst).mean().item(),
            "views": len(rows),
            "views_scored": int(scored.sum()),
        }


def _lens_around(mask: Tensor, intrinsics: Tensor, size: int, index: int) -> Tensor:
    """Intrinsics `(3, 3)` of a picture of `size` × `size` pixels of the square around a mask `(1, H, W)`."""
    rows, columns = (mask[0] > _INSIDE).any(dim=1).nonzero(), (mask[0] > _INSIDE).any(dim=0).nonzero()
    if len(rows) == 0:
        raise MVCustomError(
            f"reference_masks: expected the subject in every mask, that of reference {index} is empty."
        )
    (top, bottom), (left, right) = (
        (where[0].item(), where[-1].item() + 1.0) for where in (rows.double(), columns.double())
    )
    scale = size / (_MARGIN * max(bottom - top, right - left))
    lens = intrinsics.clone()
    lens[:2] *= scale
    lens[:2, 2] += size / 2 - scale * torch.tensor([left + right, top + bottom], dtype=torch.float64) / 2
    return lens


def _lens_alike(camera: Cameras, lens: Tensor, at: Tensor, z: Tensor) -> Tensor | None:
    """Intrinsics `(3, 3)` with which `camera` sees the origin at the pixel `at`, as large as `lens` does at depth `z`."""
    origin = camera.world_to_camera[0, :3, 3]
    if origin[2] <= 0 or z <= 0:
        return None
    alike = lens.clone()
    alike[:2, :2] *= origin[2] / z
    alike[:2, 2] = at - (alike[:2, :2] @ origin[:2]) / origin[2]
    return alike


def _seen_through(image: Tensor, intrinsics: Tensor, lens: Tensor, size: int) -> Tensor:
    """An image `(C, H, W)` through another lens at the same place, `(C, size, size)`; 0 beyond its rim.

    Where that makes it smaller, it is first made smaller evenly, so that fine patterns do not alias.
    """
    height, width = image.shape[1:]
    scale = (lens[0, 0] / intrinsics[0, 0], lens[1, 1] / intrinsics[1, 1])
    smaller = [max(1, round(side * min(1.0, s.item()))) for side, s in zip((height, width), reversed(scale))]
    image = F.interpolate(image[None], smaller, mode="bilinear", align_corners=False, antialias=True)
    centers = torch.arange(size, dtype=torch.float64) + 0.5
    x, y = ((centers - lens[i, 2]) / scale[i] + intrinsics[i, 2] for i in (0, 1))
    grid = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing="xy"), dim=-1)
    return F.grid_sample(image, grid[None].to(image), align_corners=False)[0]
