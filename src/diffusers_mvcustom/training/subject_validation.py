"""How a subject does at cameras it was not trained on: FeatureNeRF's own pictures, and generated views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..subjects import ReferenceViews, SubjectRendering, collect_reference_features, render_features
from .latent_cache import LatentCache
from .subject_model import SubjectTrainingModel
from .subject_training_config import SubjectTrainingConfig
from .training_views import TrainingViews
from .validation import compare_with_photos, generate_validation_views, side_by_side

if TYPE_CHECKING:
    from ..pipelines import MVCustomPipeline


@dataclass
class ValidationResult:
    """One validation.

    Args:
        step (`int`): Updates made.
        held_out (`bool`): Whether the cameras are of photos that were held out.
        psnr (`float`, *optional*): Mean masked PSNR in dB of FeatureNeRF's colours against the photos.
        opacity_error (`float`, *optional*): Mean absolute difference of opacity and mask.
        pictures (`dict[str, PIL.Image.Image]`): By name: photos beside what is rendered, and generated views.
    """

    step: int
    held_out: bool
    psnr: float | None
    opacity_error: float | None
    pictures: dict[str, Image.Image]

    @property
    def values(self) -> dict[str, float]:
        """The numbers by name."""
        numbers = {"validation_psnr": self.psnr, "validation_opacity_error": self.opacity_error}
        return {name: value for name, value in numbers.items() if value is not None}

    @property
    def summary(self) -> str:
        """One line."""
        where = "held-out" if self.held_out else "training"
        parts = [] if self.psnr is None else [f"PSNR {self.psnr:.2f} dB"]
        parts += [] if self.opacity_error is None else [f"opacity off by {self.opacity_error:.3f}"]
        return f"{where} cameras: {', '.join(parts) or 'pictures only'}"

    def arrays(self) -> dict[str, np.ndarray]:
        """The pictures as trackers take them, `(1, H, W, 3)` of 8 bits."""
        return {name: np.asarray(picture)[None] for name, picture in self.pictures.items()}

    def save(self, folder: Path) -> None:
        """Writes the pictures to `folder/step-N-NAME.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in self.pictures.items():
            picture.save(folder / f"step-{self.step:06d}-{name}.png")


class SubjectValidation:
    """Validates a subject while it is trained, always at the same cameras and with the same noise.

    Args:
        config ([`SubjectTrainingConfig`]): Settings.
        pipe ([`MVCustomPipeline`]): With the subject in it.
        model ([`SubjectTrainingModel`]): What is trained.
        views ([`TrainingViews`]): The photos trained on; references are chosen among them.
        held_out ([`ReferenceViews`], *optional*): The photos held out; without them training photos are compared.
        latents ([`LatentCache`]): Encodes the references.
        token (`str`): The word that names the subject.
        noun (`str`): What the subject is.
        resolution (`int`): Area and side of the pictures in pixels.
    """

    def __init__(
        self,
        config: SubjectTrainingConfig,
        pipe: MVCustomPipeline,
        model: SubjectTrainingModel,
        views: TrainingViews,
        held_out: ReferenceViews | None,
        latents: LatentCache,
        *,
        token: str,
        noun: str,
        resolution: int,
    ) -> None:
        self.config = config
        self.pipe = pipe
        self.model = model
        self.held_out = held_out is not None
        multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        photos = views.references if held_out is None else held_out.fit_area(resolution**2, multiple)
        self.photos = photos if self.held_out else photos.select(max(1, config.num_validation_views))
        self.references = views.references.select(config.num_generation_references)
        chosen = [list(views.references.names).index(name) for name in self.references.names]
        self.reference_latents = views.reference_latents[chosen]
        self.token = token
        self.prompt = config.validation_prompt.replace("{token}", token).replace("{noun}", noun)
        self.factor = pipe.vae_scale_factor

    @torch.no_grad()
    def __call__(self, step: int) -> ValidationResult:
        """Validates the weights as they are. Modes, random numbers and the pipeline are as before afterwards."""
        training, random_state = self.model.training, torch.get_rng_state()
        self.model.eval()
        try:
            psnr, opacity_error, pictures = None, None, {}
            if self.config.train_feature_nerf:
                rendering = self.render()
                psnr, opacity_error, pictures["feature-nerf"] = compare_with_photos(rendering, self.photos)
            if self.config.num_validation_views:
                pictures["views"] = self.generate()
        finally:
            self.model.train(training)
            self.model.text_encoder.eval()
            torch.set_rng_state(random_state)
        return ValidationResult(step, self.held_out, psnr, opacity_error, pictures)

    def render(self) -> SubjectRendering:
        """FeatureNeRF's view of the subject at the photos' cameras."""
        adapter, unet = self.model.adapter, self.model.unet
        latents = self.reference_latents.to(unet.device, unet.dtype)
        features = collect_reference_features(
            adapter,
            unet,
            latents,
            self._encode(adapter.config.reference_prompt_text).to(unet.dtype),
            scheduler=self.model.scheduler,
            generator=torch.Generator().manual_seed(self.config.validation_seed),
        )
        size = (self.photos.height // self.factor, self.photos.width // self.factor)
        return render_features(
            adapter, unet, features, self.references, self._encode(self.prompt), self.photos.cameras, size
        )

    def generate(self) -> Image.Image:
        """Generated views at some of the photos' cameras, below the photos."""
        config = self.config
        photos = self.photos.select(config.num_validation_views)
        embedding = self.model.token.embeddings if config.train_token else None
        views = generate_validation_views(
            self.pipe,
            embedding,
            self.token,
            self.prompt,
            photos.cameras,
            steps=config.validation_inference_steps,
            guidance=config.validation_guidance_scale,
            seed=config.validation_seed,
        )
        return side_by_side(photos.images, views)

    def _encode(self, text: str) -> Tensor:
        return self.model.token.encode(self.model.tokenizer, self.model.text_encoder, [text])
