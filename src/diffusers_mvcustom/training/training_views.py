"""The subject's photos as the trainer uses them: crops to denoise, whole views as references, all with cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from ..errors import MVCustomError
from ..subjects import ReferenceViews
from .crops import largest_crop, random_crop
from .latent_cache import LatentCache


@dataclass(frozen=True, eq=False)
class TrainingViews:
    """N photos, each as K crops of one size and as a whole.

    Args:
        images (`torch.Tensor` of shape `(N, K, 3, R, R)`): The crops, RGB in [0, 1]; the first is the largest.
        masks (`torch.Tensor` of shape `(N, K, 1, R, R)`, *optional*): Their subject masks.
        cameras (list of [`Cameras`]): Their cameras, K for each photo.
        means, stds (`torch.Tensor` of shape `(N, K, 4, h, w)`): Their latents' posterior.
        references ([`ReferenceViews`]): The whole photos at about the area of a crop, with their own aspect ratio.
        reference_latents (`torch.Tensor` of shape `(N, 4, h_r, w_r)`): Their latents.
        captions (sequence of `str`, *optional*): A text for each photo.
    """

    images: Tensor  # [N, K, 3, R, R]
    masks: Tensor | None  # [N, K, 1, R, R]
    cameras: Sequence[Cameras]
    means: Tensor  # [N, K, 4, h, w]
    stds: Tensor  # [N, K, 4, h, w]
    references: ReferenceViews
    reference_latents: Tensor  # [N, 4, h_r, w_r]
    captions: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def crops_per_photo(self) -> int:
        """How many crops there are of every photo."""
        return self.images.shape[1]


def make_training_views(
    views: ReferenceViews,
    cache: LatentCache,
    *,
    resolution: int,
    multiple: int,
    crops_per_photo: int,
    min_crop: float,
    seed: int,
    progress: Callable = iter,
) -> TrainingViews:
    """Crops and encodes the photos.

    Args:
        views ([`ReferenceViews`]): The photos, in the subject frame.
        cache ([`LatentCache`]): Encodes them.
        resolution (`int`): R, the crops' side in pixels.
        multiple (`int`): What the sides of the whole views have to be multiples of.
        crops_per_photo (`int`): K. The first is the largest centred one, the others are random.
        min_crop (`float`): See [`random_crop`].
        seed (`int`): Of the crops.
        progress (`Callable`): Wraps the loop over the photos.

    Raises:
        MVCustomError: if photos are smaller than the crops by more than half (they would be mostly interpolation).
    """
    if min(views.height, views.width) < resolution / 2:
        raise MVCustomError(
            f"resolution: the photos have {views.width} × {views.height} pixels, less than half of the {resolution} that "
            "are to be learnt. Take larger photos or a smaller resolution."
        )
    images, masks, cameras, means, stds = [], [], [], [], []
    for n in progress(range(len(views))):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + n)
        mask = None if views.masks is None else views.masks[n, 0]
        crops = [largest_crop(views.height, views.width, resolution, resolution)]
        crops += [
            random_crop(
                views.height, views.width, resolution, resolution, min_crop=min_crop, generator=generator, mask=mask
            )
            for _ in range(crops_per_photo - 1)
        ]
        parts = torch.cat([crop.pixels(views.images[n : n + 1], resolution, resolution) for crop in crops])
        mean, std = cache.encode(parts)
        images.append(parts)
        means.append(mean)
        stds.append(std)
        cameras.append(Cameras.cat([crop.cameras(views.cameras[n], resolution, resolution) for crop in crops]))
        if views.masks is not None:
            masks.append(torch.cat([crop.pixels(views.masks[n : n + 1], resolution, resolution) for crop in crops]))
    references = views.fit_area(resolution * resolution, multiple)
    reference_latents, _ = cache.encode(references.images)
    return TrainingViews(
        torch.stack(images),
        torch.stack(masks) if masks else None,
        cameras,
        torch.stack(means),
        torch.stack(stds),
        references,
        reference_latents,
        views.captions,
    )
