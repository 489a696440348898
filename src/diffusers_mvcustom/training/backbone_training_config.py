"""Every setting of the backbone trainer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from ..errors import MVCustomError
from .backbone_windows import WindowSchedule
from .training_config import TrainingConfig


@dataclass
class BackboneTrainingConfig(TrainingConfig):
    """Settings of [`BackboneTrainer`]. Steps count updates of the weights.

    Args:
        model: Model folder or Hub id: a pipeline with motion modules, or Stable Diffusion 1.5, which is given some.
        data: Folders of videos or of folders of frames, webdataset shards (uncompressed .tar), or patterns of shards such
            as `shards/clips-{0000..0041}.tar`; one or several.
        output_dir: Folder to write to: `motion_adapter/` (the result), `checkpoints/`, `validation/`, `logs/`.
        motion_adapter: Motion adapter to start from; the model's own motion modules if not given.
        fresh_motion: Start from new motion modules, whose output is zero at first. A model without any is given those.
        resolution: Side of the square frames in pixels, or height and width; the model's own if not given.
        num_frames: Frames of a clip (AnimateDiff: 16).
        frame_stride: Frames of the video from one frame of the clip to the next (AnimateDiff: 4); smaller where a video is
            too short for it.
        min_crop: Smallest crop, as the share of the largest one of its shape; 1 cuts off no more than the shape needs.
        random_crop: Crops lie anywhere; otherwise in the middle.
        horizontal_flip: Share of clips that are mirrored. Captions that say left and right then lie.
        image_share: Share of samples that are single frames, for the quality of each view.
        caption_column: Column or key of the captions; caption, text, prompt or description if not given.
        default_caption: Text of videos that have none.
        holdout: Videos kept out of training for the validation loss, evenly spread.
        unreadable: skip (another video takes its place, and it is named) or refuse.
        num_workers: Processes that decode videos ahead of time; 0 decodes in the training process.
        cache_latents: Keep latents of frames on the disk, keyed by content. It pays with `--random_crop false
            --frame_stride 1` and few videos, where frames come again.
        vae_batch_size: Frames that the autoencoder encodes at a time.
        window_schedule: When which attention window begins: pairs of a step (whole number) or a share of all steps and a
            window (odd number of positions, null for the whole map, or windows by feature map size).
        temporal_heads: Heads of the motion modules, the first ones, that go on attending along time alone whatever the window
            is; 0 is the paper's attention. With half of them a training starts nearer to what AnimateDiff learnt.
        carried_noise: Share of the clips with a geometry file whose noise moves with what is seen: the middle frame's is
            carried into the others, as depth-aware feature rendering does when views are generated.
        noise_offset: Noise that a clip's channels share, added to its noise: helps with very dark and bright videos.
        train_batch_size: Clips at a time on each process.
        learning_rate: Learning rate (AnimateDiff: 1e-4).
        validation_prompts: Texts of the clips generated at each validation, always from the same noise.
    """

    _: KW_ONLY
    fresh_motion: bool = False
    # --- data ---
    resolution: int | tuple[int, int] | None = None
    num_frames: int = 16
    frame_stride: int = 4
    min_crop: float = 1.0
    random_crop: bool = True
    horizontal_flip: float = 0.0
    image_share: float = 0.0
    caption_column: str | None = None
    default_caption: str = ""
    holdout: int = 0
    unreadable: Literal["skip", "refuse"] = "skip"
    num_workers: int = 2
    cache_latents: bool = False
    vae_batch_size: int = 16
    # --- windows ---
    window_schedule: list[tuple[int | float, int | dict[str, int | None] | None]] = field(
        default_factory=lambda: [(0, 1), (0.2, 3), (0.4, 5), (0.6, 7), (0.8, None)]
    )
    temporal_heads: int = 0
    # --- losses ---
    carried_noise: float = 0.0
    noise_offset: float = 0.0
    # --- optimisation ---
    max_train_steps: int = 50000
    ema_decay: float = 0.9999
    # --- along the way ---
    checkpointing_steps: int = 1000
    validation_prompts: list[str] = field(default_factory=list)
    validation_guidance_scale: float = 7.5
    tracker_project: str = "mvcustom-backbone"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or not all(place.strip() for place in self.places):
            raise MVCustomError(f"data: expected a folder, shards, or a list of them, got {self.data!r}.")
        self._check_least(num_frames=2, frame_stride=1, holdout=0, num_workers=0, vae_batch_size=1, temporal_heads=0)
        self._check_shares("horizontal_flip", "image_share", "carried_noise")
        self._check_not_negative("noise_offset")
        if not 0 < self.min_crop <= 1:
            raise MVCustomError(f"min_crop: expected a share in (0, 1], got {self.min_crop}.")
        if self.min_crop < 1 and not self.random_crop:
            raise MVCustomError("min_crop: crops in the middle (random_crop: false) are as large as can be.")
        if self.fresh_motion and self.motion_adapter is not None:
            raise MVCustomError("fresh_motion: motion_adapter names what to start from; give one of the two.")
        self.windows()  # raises if they will not do

    @property
    def places(self) -> list[str]:
        """`data` as a list."""
        return [self.data] if isinstance(self.data, str) else list(self.data)

    def windows(self) -> WindowSchedule:
        """The attention windows by step."""
        return WindowSchedule(self.window_schedule, self.max_train_steps)
