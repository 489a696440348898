"""A head start for the image model's text encoder: it learns to tell what captions say before it sees any picture.

Stable Diffusion's text encoder was trained beforehand too. It is captions to attributes here, which costs minutes; the image
model then trains it further.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..attributes import ATTRIBUTE_VALUES, Chooser
from ..captions import describe, read_caption
from ..splits import sample_attributes
from ..tokenizer import toy_tokenizer
from .image_model import TEXT_WIDTH, new_image_model
from .training_run import TrainingRun

SCENES = 1_000_000


def text_run(folder: Path, *, max_steps: int, batch_size: int, device: str, seed: int) -> TrainingRun:
    """The stage's training, to go on from its newest checkpoint."""
    text_encoder = new_image_model(toy_tokenizer(), seed)["text_encoder"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        answers = nn.ModuleDict(
            {name: nn.Linear(TEXT_WIDTH, len(values)) for name, values in ATTRIBUTE_VALUES.items()}
        )
    return TrainingRun(
        folder,
        {"text_encoder": text_encoder, "answers": answers},
        learning_rate=1e-3,
        max_steps=max_steps,
        batch_size=batch_size,
        ema_decay=None,
        warm_up=50,
        decay_from=0.3,
        device=device,
        seed=seed,
        save_every=100,
    )


def train_text_encoder(run: TrainingRun) -> None:
    """Trains to the end: from the state of a caption's last token to all attributes that the caption names."""
    tokenizer = toy_tokenizer()
    text_encoder, answers = run.modules["text_encoder"], run.modules["answers"]
    assert isinstance(answers, nn.ModuleDict)

    def loss(step: int, numbers: list[int]) -> dict[str, Tensor]:
        scenes = torch.randint(SCENES, (len(numbers),)).tolist()
        captions = [
            describe(sample_attributes("train", scene), Chooser(number)) for scene, number in zip(scenes, numbers)
        ]
        named = [read_caption(caption) for caption in captions]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = text_encoder(ids.to(run.device)).pooler_output
        losses, right, count = [], 0.0, 0
        for name, values in ATTRIBUTE_VALUES.items():
            rows = [row for row, attributes in enumerate(named) if name in attributes]
            if not rows:
                continue
            labels = torch.tensor([values.index(named[row][name]) for row in rows], device=run.device)
            scores = answers[name](states[rows]).float()
            losses.append(F.cross_entropy(scores, labels))
            right += (scores.argmax(-1) == labels).sum().item()
            count += len(rows)
        return {"loss": torch.stack(losses).mean(), "right": torch.tensor(right / count)}

    run.train(loss)


def trained_text_encoder(folder: Path, device: str = "cpu") -> CLIPTextModel | None:
    """The stage's text encoder, for the image model to start from; `None` if the stage has not been run."""
    if not (folder / "checkpoints").is_dir():
        return None
    return text_run(folder, max_steps=1, batch_size=1, device=device, seed=0).modules["text_encoder"]
