"""Whether views show what the prompt says, apart from the subject's own token."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ..errors import MVCustomError
from .metric import Metric
from .pretrained_scores import TextScore
from .views import check_images

_CLIP_SCORE_WEIGHT = 2.5


def prompt_without_token(prompt: str, token: str | None) -> str:
    """The prompt without the subject's token, which no pretrained text encoder knows.

    Example:

        >>> from diffusers_mvcustom.evaluation import prompt_without_token
        >>> prompt_without_token("a <my-mug> mug on a mossy rock", "<my-mug>")
        'a mug on a mossy rock'
    """
    text = prompt if not token else re.sub(rf"\s*{re.escape(token)}", "", prompt)
    text = " ".join(text.split())
    if not text:
        raise MVCustomError(f"prompt: expected words besides the token {token!r}, got {prompt!r}.")
    return text


def text_alignment(
    similarity: TextScore,
    images: Tensor,  # [N, 3, H, W]
    prompt: str,
    token: str | None = None,
) -> dict[str, float]:
    """Text alignment of one set of views; see [`TextAlignment`]."""
    metric = TextAlignment(similarity)
    metric.update(images, prompt, token)
    return metric.summarize(metric.rows())


class TextAlignment(Metric):
    """Text alignment by CLIP over all views of many sets, each with its prompt.

    - `clip_score`: mean of 2.5 × max(cosine, 0), the CLIPScore of Hessel et al. (EMNLP 2021);
    - `cosine`: mean of the cosines, what is often called CLIP-T;
    - `views`: the count.

    It sees every view alone: one good view, repeated, is as well aligned as the set it is from, which the camera metrics tell
    apart.

    Args:
        similarity (callable): Images `(N, 3, H, W)` and a text to cosines `(N,)`: [`ClipTextSimilarity`], or your own.
    """

    columns = ("cosine",)
    higher_is_better = {"clip_score": True, "cosine": True}  # noqa: RUF012

    def __init__(self, similarity: TextScore) -> None:
        super().__init__()
        self.similarity = similarity

    def update(
        self,
        images: Tensor,  # [N, 3, H, W]
        prompt: str,
        token: str | None = None,
    ) -> None:
        """Adds a set of views.

        Args:
            images (`torch.Tensor` of shape `(N, 3, H, W)`): RGB in [0, 1].
            prompt (`str`): What they should show.
            token (`str`, *optional*): The subject's token, which is left out of the prompt.
        """
        check_images("images", images)
        cosines = torch.as_tensor(self.similarity(images, prompt_without_token(prompt, token))).detach().cpu().double()
        if cosines.shape != (len(images),) or not cosines.isfinite().all():
            raise MVCustomError(
                f"similarity: expected one finite number for each of {len(images)} images, got shape {tuple(cosines.shape)}."
            )
        self.add_rows(cosines[:, None])

    def summarize(self, rows: Tensor) -> dict[str, float]:
        """Mean over all views."""
        cosine = rows[:, 0]
        return {
            "clip_score": (_CLIP_SCORE_WEIGHT * cosine.clamp(min=0)).mean().item(),
            "cosine": cosine.mean().item(),
            "views": len(rows),
        }
