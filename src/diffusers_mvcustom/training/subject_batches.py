"""From the plan of a training sample to its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cameras import Cameras
from .sampling import SamplePlan, SamplePlanner
from .subject_model import SubjectBatch
from .training_views import TrainingViews


@dataclass(frozen=True, eq=False)
class ClassViews:
    """Images of the subject's class, for prior preservation.

    Args:
        images (`torch.Tensor` of shape `(N, 3, R, R)`): RGB in [0, 1].
        means, stds (`torch.Tensor` of shape `(N, 4, h, w)`): Their latents' posterior.
        texts (sequence of `str`): Their texts.
    """

    images: Tensor  # [N, 3, R, R]
    means: Tensor  # [N, 4, h, w]
    stds: Tensor  # [N, 4, h, w]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)


class SubjectBatches:
    """Batches by the numbers of their samples.

    Args:
        planner ([`SamplePlanner`]): Says what a sample is.
        views ([`TrainingViews`]): The subject's photos.
        class_views ([`ClassViews`], *optional*): The class images.
        token (`str`), class_noun (`str`): Filled into the prompts.
        device (`torch.device`): Where the tensors go.
        dtype (`torch.dtype`): Of the latents.
    """

    def __init__(
        self,
        planner: SamplePlanner,
        views: TrainingViews,
        class_views: ClassViews | None,
        *,
        token: str,
        class_noun: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.planner = planner
        self.views = views
        self.class_views = class_views
        self.token = token
        self.class_noun = class_noun
        self.device = device
        self.dtype = dtype

    def __call__(self, numbers: Sequence[int]) -> SubjectBatch:
        """The batch of these samples."""
        plans = [self.planner.plan(number) for number in numbers]
        parts = [self._sample(plan) for plan in plans]
        masks = None
        if self.views.masks is not None:
            masks = torch.stack([mask for _, _, _, _, mask in parts if mask is not None]).to(self.device)
        indices = sorted({n for plan in plans for n in plan.references})
        references = self.views.references[indices] if indices else None
        reference_masks = None if references is None or references.masks is None else references.masks.to(self.device)
        return SubjectBatch(
            plans=plans,
            latents=torch.stack([latents for latents, *_ in parts]).to(self.device, self.dtype),
            noise=torch.stack([noise for _, noise, *_ in parts]).to(self.device, self.dtype),
            timesteps=torch.tensor([plan.timestep for plan in plans], device=self.device),
            texts=[self._text(plan) for plan in plans],
            cameras=[camera for _, _, camera, _, _ in parts],
            images=torch.stack([image for _, _, _, image, _ in parts]).to(self.device),
            masks=masks,
            reference_indices=indices,
            reference_latents=self.views.reference_latents[indices].to(self.device, self.dtype) if indices else None,
            reference_cameras=None if references is None else references.cameras,
            reference_masks=reference_masks,
        )

    def _sample(self, plan: SamplePlan) -> tuple[Tensor, Tensor, Cameras | None, Tensor, Tensor | None]:
        """Latents, noise, camera, image and mask of a sample."""
        generator = torch.Generator().manual_seed(plan.noise_seed)
        camera: Cameras | None = None
        mask: Tensor | None = None
        if plan.prior:
            views = self._prior_views()
            mean, std, image = (source[plan.image] for source in (views.means, views.stds, views.images))
            mask = torch.ones_like(image[:1])
        else:
            place = (plan.image, plan.crop)
            mean, std, image = self.views.means[place], self.views.stds[place], self.views.images[place]
            camera = self.views.cameras[plan.image][plan.crop]
            if self.views.masks is not None:
                mask = self.views.masks[place]
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        return latents, torch.randn(mean.shape, generator=generator), camera, image, mask

    def _prior_views(self) -> ClassViews:
        assert self.class_views is not None  # where there are none, no sample is planned that shows one
        return self.class_views

    def _text(self, plan: SamplePlan) -> str:
        if plan.prompt is None:
            return ""
        if plan.prior:
            return self._prior_views().texts[plan.image]
        return plan.prompt.replace("{token}", self.token).replace("{noun}", self.class_noun)
