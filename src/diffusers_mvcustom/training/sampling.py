"""What each training sample is: a pure function of the seed and the sample's number, so nothing has to be restored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .subject_training_config import SubjectTrainingConfig

_PRIME = 2**61 - 1


@dataclass(frozen=True)
class SamplePlan:
    """One training sample.

    Args:
        index (`int`): Its number in the whole training.
        prior (`bool`): Whether it is a class image (without references).
        image (`int`): The photo or class image.
        crop (`int`): The photo's crop.
        references (`tuple[int, ...]`): Photos that it is seen from; empty if they are dropped.
        prompt (`str`, *optional*): The text's template; `None` if the text is dropped.
        importance_sampling (`bool`): Whether rays follow the block before.
        timestep (`int`): Noise level.
        noise_seed (`int`): Seed of all noise in the sample.
    """

    index: int
    prior: bool
    image: int
    crop: int
    references: tuple[int, ...]
    prompt: str | None
    importance_sampling: bool
    timestep: int
    noise_seed: int


class SamplePlanner:
    """Draws the samples of a training by number.

    Every photo comes up once before any comes up again. References are others than the photo itself.

    Args:
        config ([`SubjectTrainingConfig`]): Shares and counts.
        num_photos (`int`), num_crops (`int`), num_class_images (`int`): What there is to draw from.
        num_timesteps (`int`): Noise levels of the scheduler.
        captions (sequence of `str`, *optional*): A text for each photo, instead of the prompts.
    """

    def __init__(
        self,
        config: SubjectTrainingConfig,
        *,
        num_photos: int,
        num_crops: int,
        num_class_images: int,
        num_timesteps: int,
        captions: Sequence[str] | None = None,
    ) -> None:
        self.config = config
        self.num_photos = num_photos
        self.num_crops = num_crops
        self.num_class_images = num_class_images
        self.num_timesteps = num_timesteps
        self.captions = captions

    def plan(self, index: int) -> SamplePlan:
        """The sample with this number."""
        config = self.config
        generator = torch.Generator().manual_seed(derived_seed(config.seed, "sample", index))

        def share() -> float:
            return torch.rand((), generator=generator, dtype=torch.float64).item()

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        prior = share() < config.prior_probability and self.num_class_images > 0
        drop_text = share() < config.text_dropout
        drop_references = prior or share() < config.reference_dropout or not config.train_feature_nerf
        importance_sampling = share() < config.importance_sampling_share
        photo = self._photo(index)
        others = [n for n in range(self.num_photos) if n != photo]
        chosen = torch.randperm(len(others), generator=generator)[: config.num_references]
        prompt = config.prompts[below(len(config.prompts))]
        if self.captions is not None:
            prompt = self.captions[photo]
        return SamplePlan(
            index=index,
            prior=prior,
            image=below(self.num_class_images) if prior else photo,
            crop=below(self.num_crops),
            references=() if drop_references else tuple(sorted(others[i] for i in chosen.tolist())),
            prompt=None if drop_text else prompt,
            importance_sampling=importance_sampling,
            timestep=below(self.num_timesteps),
            noise_seed=derived_seed(config.seed, "noise", index),
        )

    def _photo(self, index: int) -> int:
        round_, place = divmod(index, self.num_photos)
        generator = torch.Generator().manual_seed(derived_seed(self.config.seed, "order", round_))
        return int(torch.randperm(self.num_photos, generator=generator)[place])


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed for one use of randomness; uses do not share any."""
    digest = hashlib.blake2b(f"{seed} {purpose} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _PRIME
