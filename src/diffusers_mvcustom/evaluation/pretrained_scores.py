"""Scores of images by pretrained networks: DreamSim, LPIPS, DINOv2, CLIP. Weights are loaded when first needed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..data.checks import is_installed
from ..errors import MVCustomError
from .metric import MetricUnavailable
from .views import check_images, to_bytes

PairScore = Callable[[Tensor, Tensor], Tensor]
"""Images `(P, 3, H, W)` and as many others, RGB in [0, 1], to one number a pair, `(P,)`."""
TextScore = Callable[[Tensor, str], Tensor]
"""Images `(N, 3, H, W)`, RGB in [0, 1], and a text, to one number an image, `(N,)`."""

_BATCH = 16
_DREAMSIM_SIDE = 224
_LPIPS_SIDE = 64


class DreamSimDistance:
    """DreamSim (Fu et al., NeurIPS 2023): 0 for equal images, towards 1 for different ones.

    Args:
        model_type (`str`, defaults to `"ensemble"`): As in the dreamsim package.
        cache_dir (path, *optional*): Where that package keeps its weights; by default `dreamsim` in torch.hub's folder.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to compute.
    """

    def __init__(
        self,
        model_type: str = "ensemble",
        *,
        cache_dir: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model_type, self.device = model_type, torch.device(device)
        self.cache_dir = Path(torch.hub.get_dir()) / "dreamsim" if cache_dir is None else Path(cache_dir)

    @cached_property
    def model(self) -> Any:
        """The network; raises [`MetricUnavailable`] if package or weights cannot be had."""
        with _loading("DreamSim", "dreamsim", f"download its weights into {self.cache_dir} where there is a network"):
            from dreamsim import dreamsim

            self.cache_dir.mkdir(parents=True, exist_ok=True)
            model, _ = dreamsim(
                pretrained=True, device=str(self.device), cache_dir=str(self.cache_dir), dreamsim_type=self.model_type
            )
            return model

    def __call__(
        self,
        one: Tensor,  # [P, 3, H, W]
        other: Tensor,  # [P, 3, H, W]
    ) -> Tensor:
        """Distances, `(P,)`."""
        _check_pairs(one, other)
        size = (_DREAMSIM_SIDE, _DREAMSIM_SIDE)
        batches = zip(_resized(one, size).split(_BATCH), _resized(other, size).split(_BATCH))
        with torch.no_grad():
            return torch.cat([self.model(a.to(self.device), b.to(self.device)).cpu().reshape(-1) for a, b in batches])


class LpipsDistance:
    """LPIPS (Zhang et al., CVPR 2018), by torchmetrics: 0 for equal images, larger for different ones.

    Images with a shorter side below 64 are enlarged to it: AlexNet's layers need as much.

    Args:
        net_type (`str`, defaults to `"alex"`): `"alex"`, `"vgg"` or `"squeeze"`.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to compute.
    """

    def __init__(self, net_type: str = "alex", *, device: str | torch.device = "cpu") -> None:
        self.net_type, self.device = net_type, torch.device(device)

    @cached_property
    def model(self) -> Any:
        """The network; raises [`MetricUnavailable`] if package or weights cannot be had."""
        with _loading("LPIPS", "torchmetrics", "download torchvision's weights where there is a network"):
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            return LearnedPerceptualImagePatchSimilarity(net_type=self.net_type, normalize=True).to(self.device)

    def __call__(
        self,
        one: Tensor,  # [P, 3, H, W]
        other: Tensor,  # [P, 3, H, W]
    ) -> Tensor:
        """Distances, `(P,)`."""
        _check_pairs(one, other)
        scale = max(1.0, _LPIPS_SIDE / min(one.shape[2:]))
        size = (round(one.shape[2] * scale), round(one.shape[3] * scale))
        pairs = zip(_resized(one, size).to(self.device).split(1), _resized(other, size).to(self.device).split(1))
        with torch.no_grad():
            distances = torch.stack([self.model(a, b) for a, b in pairs]).cpu()  # of each pair alone, not their mean
        self.model.reset()
        return distances


class Dinov2Similarity:
    """Cosine similarity of DINOv2's class tokens (Oquab et al., TMLR 2024), in [-1, 1].

    Args:
        model (`str`, defaults to `"facebook/dinov2-base"`): Folder or Hub id of a transformers `Dinov2Model`.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to compute.
    """

    def __init__(self, model: str | Path = "facebook/dinov2-base", *, device: str | torch.device = "cpu") -> None:
        self.name, self.device = str(model), torch.device(device)

    @cached_property
    def model(self) -> Any:
        """Network and image processor; raises [`MetricUnavailable`] if they cannot be had."""
        with _loading(f"DINOv2 {self.name!r}", "transformers", "give the folder of a downloaded model"):
            from transformers import AutoImageProcessor, Dinov2Model

            folder = _local_folder(self.name)
            processor = AutoImageProcessor.from_pretrained(folder)
            network = Dinov2Model.from_pretrained(folder).eval()
            return network.to(device=self.device), processor

    def embed(
        self,
        images: Tensor,  # [N, 3, H, W]
    ) -> Tensor:
        """Class tokens, `(N, D)`."""
        network, processor = self.model
        embeddings = []
        with torch.no_grad():
            for batch in images.split(_BATCH):
                pixels = processor(images=_pictures(batch), return_tensors="pt")["pixel_values"]
                embeddings.append(network(pixel_values=pixels.to(self.device)).pooler_output.float().cpu())
        return torch.cat(embeddings)

    def __call__(
        self,
        one: Tensor,  # [P, 3, H, W]
        other: Tensor,  # [P, 3, H, W]
    ) -> Tensor:
        """Similarities, `(P,)`."""
        _check_pairs(one, other)
        return F.cosine_similarity(self.embed(one), self.embed(other), dim=-1)


class ClipTextSimilarity:
    """Cosine similarity of images and a text by CLIP (Radford et al., ICML 2021), in [-1, 1].

    Args:
        model (`str`, defaults to `"openai/clip-vit-large-patch14"`): Folder or Hub id of a transformers `CLIPModel`.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to compute.
    """

    def __init__(
        self, model: str | Path = "openai/clip-vit-large-patch14", *, device: str | torch.device = "cpu"
    ) -> None:
        self.name, self.device = str(model), torch.device(device)

    @cached_property
    def model(self) -> Any:
        """Network, image processor and tokenizer; raises [`MetricUnavailable`] if they cannot be had."""
        with _loading(f"CLIP {self.name!r}", "transformers", "give the folder of a downloaded model"):
            from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

            folder = _local_folder(self.name)
            processor = AutoImageProcessor.from_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            network = CLIPModel.from_pretrained(folder).eval()
            return network.to(device=self.device), processor, tokenizer

    def __call__(
        self,
        images: Tensor,  # [N, 3, H, W]
        text: str,
    ) -> Tensor:
        """Similarities, `(N,)`. A text longer than the model reads is cut."""
        check_images("images", images)
        network, processor, tokenizer = self.model
        tokens = tokenizer([text], truncation=True, return_tensors="pt").to(self.device)
        similarities = []
        with torch.no_grad():
            for batch in images.split(_BATCH):
                pixels = processor(images=_pictures(batch), return_tensors="pt")["pixel_values"]
                output = network(
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                    pixel_values=pixels.to(self.device),
                )
                similarities.append(F.cosine_similarity(output.image_embeds, output.text_embeds, dim=-1).float().cpu())
        return torch.cat(similarities)


@contextmanager
def _loading(what: str, package: str, remedy: str) -> Iterator[None]:
    """Turns whatever keeps a network from being loaded into [`MetricUnavailable`]."""
    if not is_installed(package):
        raise MetricUnavailable(f"{what} needs the package {package}: pip install 'diffusers-mvcustom[eval]'.")
    try:
        yield
    except ModuleNotFoundError as error:
        raise MetricUnavailable(
            f"{what} needs {error.name or error}, which is not installed: pip install 'diffusers-mvcustom[eval]'. "
            "torchvision has to be of the same build as torch."
        ) from error
    except (ImportError, OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MetricUnavailable(f"{what} cannot be loaded: {reason[:200]} - {remedy}.") from error


def _local_folder(name: str) -> str:
    """A model's folder, fetched from the Hub if it is none: asked for once, where each loader would ask and wait anew."""
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    return snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"])


def _check_pairs(one: Tensor, other: Tensor) -> None:
    check_images("one", one)
    check_images("other", other)
    if one.shape != other.shape:
        raise MVCustomError(
            f"one, other: expected images of one shape, got {tuple(one.shape)} and {tuple(other.shape)}."
        )


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == size:
        return images.float()
    resized = F.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 1)


def _pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in to_bytes(images)]
