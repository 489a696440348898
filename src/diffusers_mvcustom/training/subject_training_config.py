"""Every setting of the subject trainer, with the papers' numbers as defaults."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

from ..errors import MVCustomError
from ..subjects.placeholders import placeholders
from .training_config import TrainingConfig


@dataclass
class SubjectTrainingConfig(TrainingConfig):
    """Settings of [`SubjectTrainer`]. Steps count updates of the weights.

    Args:
        model: Model folder or Hub id: a saved pipeline, or Stable Diffusion 1.5 together with `motion_adapter`.
        data: What to learn from: a folder of `mvcustom prepare`, or any posed capture (transforms.json, COLMAP, CO3Dv2).
        output_dir: Folder to write to: `subject/` (the result), `checkpoints/`, `validation/`, `logs/`.
        token: New word that names the subject, such as `<my-mug>`. Taken from prepared data if not given.
        class_noun: What the subject is: mug, car, chair. Taken from prepared data if not given.
        motion_adapter: Motion adapter for a model that has none.
        initializer_token: Known word that the new one starts from; the class noun if not given.
        num_token_vectors: Embeddings that the new word stands for.
        resolution: Side of the square training crops in pixels; the model's own if not given.
        up: World up of a capture that is not prepared: auto, or three numbers such as 0,-1,0.
        masks: auto (the capture's own, else the photos' alpha, else none), required, none, or a folder of masks.
        sequence: Sequence of a CO3Dv2 file.
        prompts: Texts of the training views; `{token}` and `{noun}` are filled in. One is drawn for each sample.
        use_captions: Use the captions of prepared data, where there are any, instead of `prompts`.
        holdout: Photos kept out of training for validation: how many (evenly spread), or their names.
        crops_per_photo: Crops of each photo (their latents are cached); 1 is the whole view only.
        min_crop: Smallest crop, as the share of the largest one's side.
        train_lora: Train LoRA on the attention projections of the spatial layers.
        train_token: Train the new word's embedding (textual inversion).
        train_feature_nerf: Train FeatureNeRF and projections; without them it is DreamBooth-LoRA, without cameras.
        rank: Rank of the LoRA; its alpha is the same.
        lora_dropout: Dropout in the LoRA.
        pose_conditioned_blocks: Blocks that see the subject, as one regular expression over their names; the default
            blocks if not given.
        feature_nerf: Settings of FeatureNeRF by name, such as num_samples; see FeatureNeRFConfig.
        num_references: Reference photos drawn at random for each sample (CustomDiffusion360: 5).
        num_generation_references: Reference photos that a generation uses (MVCustom: 8).
        reference_timestep: Noise level at which the U-Net sees the references; 0 leaves them clean.
        reference_dropout: Share of the subject's samples without references, beside the class images.
        prior_probability: Share of samples that are class images without references (25 %); 0 turns them off.
        class_data_dir: Folder of class images; made by the model in `output_dir/class_images` if not given.
        class_prompt: Text of the class images; `{noun}` is filled in. A .txt beside an image has precedence.
        num_class_images: How many class images to generate if there are fewer.
        importance_sampling_share: Share of samples whose rays follow the block before (90 %).
        rgb_loss_weight: Weight of the colours' error inside the mask (5).
        opacity_loss_weight: Weight of the opacity's error (10).
        background_loss_weight: Weight of density outside the mask (10).
        background_threshold: Mask below which a ray counts as outside (0.1).
        masked_denoising_loss: Denoising error inside the subject's mask only, where there is one.
        max_train_steps: Updates of the weights (1,600).
        gradient_accumulation_steps: Batches for an update; batch × accumulation × processes is 4 in the paper.
        learning_rate: Of FeatureNeRF, projections and LoRA (1e-4).
        token_learning_rate: Of the new word's embedding; the learning rate if not given.
        lora_learning_rate: Of the LoRA; the learning rate if not given.
        adam_weight_decay: Weight decay; never on the embedding.
        validation_prompt: Text of the validation views; `{token}` and `{noun}` are filled in.
        num_validation_views: Views generated at each validation, from held-out cameras (or else training cameras); 0
            leaves it at FeatureNeRF's own picture.
        cache_latents: Encode the photos once; the cache is keyed by content and lies in `cache_dir`.
    """

    data: str
    token: str | None = None
    _: KW_ONLY
    class_noun: str | None = None
    initializer_token: str | None = None
    num_token_vectors: int = 1
    # --- data ---
    resolution: int | None = None
    up: str = "auto"
    masks: str = "auto"
    sequence: str | None = None
    prompts: list[str] = field(
        default_factory=lambda: [
            "a photo of a {token} {noun}",
            "a {token} {noun}",
            "a close photo of a {token} {noun}",
            "a picture of a {token} {noun}",
        ]
    )
    use_captions: bool = True
    holdout: int | list[str] = 0
    crops_per_photo: int = 8
    min_crop: float = 0.7
    # --- what is trained ---
    train_lora: bool = True
    train_token: bool = True
    train_feature_nerf: bool = True
    rank: int = 16
    lora_dropout: float = 0.0
    pose_conditioned_blocks: str | None = None
    feature_nerf: dict = field(default_factory=dict)
    # --- sampling ---
    num_references: int = 5
    num_generation_references: int = 8
    reference_timestep: int = 0
    reference_dropout: float = 0.0
    prior_probability: float = 0.25
    class_data_dir: str | None = None
    class_prompt: str = "a photo of a {noun}"
    num_class_images: int = 200
    importance_sampling_share: float = 0.9
    # --- losses ---
    rgb_loss_weight: float = 5.0
    opacity_loss_weight: float = 10.0
    background_loss_weight: float = 10.0
    background_threshold: float = 0.1
    masked_denoising_loss: bool = True
    # --- optimisation ---
    max_train_steps: int = 1600
    token_learning_rate: float | None = None
    lora_learning_rate: float | None = None
    ema_decay: float = 0.999
    # --- along the way ---
    checkpointing_steps: int = 500
    validation_prompt: str = "a photo of a {token} {noun}"
    num_validation_views: int = 4
    validation_guidance_scale: float = 5.0
    tracker_project: str = "mvcustom-subject"
    cache_latents: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_text("data")
        if self.token is not None:
            self._check_text("token")
        self._check_least(
            num_token_vectors=1,
            crops_per_photo=1,
            rank=1,
            num_references=1,
            num_generation_references=1,
            reference_timestep=0,
            num_class_images=0,
            num_validation_views=0,
        )
        self._check_shares(
            "reference_dropout",
            "prior_probability",
            "importance_sampling_share",
            "background_threshold",
            "lora_dropout",
        )
        self._check_positive("token_learning_rate", "lora_learning_rate")
        for name in ("token_learning_rate", "lora_learning_rate"):
            if self.optimizer == "prodigy" and getattr(self, name) not in (None, self.learning_rate):
                raise MVCustomError(f"{name}: prodigy finds one step size for all weights; leave it at learning_rate.")
        self._check_not_negative("rgb_loss_weight", "opacity_loss_weight", "background_loss_weight")
        if not 0 < self.min_crop <= 1:
            raise MVCustomError(f"min_crop: expected a share in (0, 1], got {self.min_crop}.")
        if not (self.train_lora or self.train_token or self.train_feature_nerf):
            raise MVCustomError(
                "train_lora, train_token, train_feature_nerf: expected at least one of them to be true."
            )
        if not self.prompts or not all("{token}" in prompt for prompt in self.prompts):
            raise MVCustomError(f"prompts: expected texts with {{token}}, got {self.prompts}.")
        for name in ("prompts", "validation_prompt", "class_prompt"):
            texts = getattr(self, name)
            for text in texts if isinstance(texts, list) else [texts]:
                placeholders(text, name)
        if any(c.isspace() for c in self.token or ""):
            raise MVCustomError(f"token: expected one word without spaces, got {self.token!r}.")
        if isinstance(self.holdout, int) and self.holdout < 0:
            raise MVCustomError(f"holdout: expected a number of photos or their names, got {self.holdout}.")
