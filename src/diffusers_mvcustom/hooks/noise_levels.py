"""What a scheduler's steps look like to the hooks: noise levels, x̂_0 and noising, in the scheduler's own scaling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from ..errors import MVCustomError


@dataclass(frozen=True)
class NoiseLevels:
    """`x_t = alpha_t x_0 + sigma_t noise` for every step of one schedule.

    Read from the scheduler itself (its own `add_noise` of a one and of a zero), so variance-preserving (DDIM, DPM++,
    LCM) and variance-exploding (Euler) schedulers are described in the scaling of their own latents.
    """

    alphas: Tensor  # [steps]
    sigmas: Tensor  # [steps]
    prediction_type: str

    @classmethod
    def of(cls, scheduler: SchedulerMixin, timesteps: Tensor) -> NoiseLevels:
        """Reads the noise levels at `timesteps` (`torch.Tensor` of shape `(steps,)`). Call it before the first step.

        Raises:
            MVCustomError: if the scheduler cannot add noise, evaluates the model more than once a step, or predicts
                something other than the noise, the sample or v.
        """
        name = type(scheduler).__name__
        prediction_type = scheduler.config.get("prediction_type")
        if prediction_type not in ("epsilon", "sample", "v_prediction"):
            raise MVCustomError(
                f"scheduler: expected prediction_type epsilon, sample or v_prediction, got {prediction_type!r} "
                f"({name}). Flow-matching schedulers do not fit this model."
            )
        if not hasattr(scheduler, "add_noise"):
            raise MVCustomError(f"scheduler: {name} cannot add noise to a sample; take DDIM, Euler, DPM++ or LCM.")
        if scheduler.order != 1 or len(timesteps.unique()) != len(timesteps):
            raise MVCustomError(
                f"scheduler: expected one model call a step, got {name} (order {scheduler.order}, {len(timesteps)} "
                f"calls at {len(timesteps.unique())} timesteps); take DDIM, Euler, DPM++ or LCM with these hooks."
            )
        one = torch.ones(len(timesteps), 1, device=timesteps.device)
        zero = torch.zeros_like(one)
        return cls(
            scheduler.add_noise(one, zero, timesteps).squeeze(1),
            scheduler.add_noise(zero, one, timesteps).squeeze(1),
            prediction_type,
        )

    def predict_original(
        self,
        model_output: Tensor,  # [...], after guidance
        sample: Tensor,  # [...], x_t
        index: int,
    ) -> Tensor:
        """x̂_0 from the model's output at step `index`, of the shape and dtype of `sample`."""
        alpha, sigma = self.alphas[index], self.sigmas[index]
        output, x_t = model_output.float(), sample.float()
        if self.prediction_type == "sample":
            original = output
        elif self.prediction_type == "epsilon":
            original = (x_t - sigma * output) / alpha
        else:  # v = alpha' noise - sigma' x_0 of the variance-preserving (alpha', sigma'), alpha'^2 + sigma'^2 = 1
            scale = torch.sqrt(alpha**2 + sigma**2)
            original = alpha / scale**2 * x_t - sigma / scale * output
        return original.to(sample.dtype)

    def add_noise(
        self,
        original: Tensor,  # [...], x_0
        noise: Tensor,  # [...]
        index: int,
    ) -> Tensor:
        """`x_t` at step `index`, of the shape and dtype of `original`."""
        noised = self.alphas[index] * original.float() + self.sigmas[index] * noise.float()
        return noised.to(original.dtype)
