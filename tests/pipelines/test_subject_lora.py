"""LoRA of the user's beside a subject's: which act, how strongly, and what is refused."""

import pytest
import torch

from diffusers_mvcustom import AnchorSettings, MVCustomPipeline
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.pipelines.lora_layers import active_loras

PROMPT = "a <cube> by a lake"
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora"


@pytest.fixture
def with_subject(pipe, make_subject):
    pipe.load_subject(make_subject(pipe))
    return pipe


def style(pipe, strength=1.0):
    channels = pipe.unet.config.block_out_channels[0]
    generator = torch.Generator().manual_seed(1)
    return {
        f"{LAYER}.down.weight": torch.randn(2, channels, generator=generator),
        f"{LAYER}.up.weight": strength * torch.randn(channels, 2, generator=generator),
    }


def test_a_style_acts_beside_the_subject_whichever_came_first(make_pipe, run, make_subject):
    first, second = make_pipe(), make_pipe()
    first.load_lora_weights(style(first), adapter_name="style")
    alone = run(first, hooks=[])
    for pipe in (first, second):
        torch.manual_seed(0)  # of the FeatureNeRF's first weights
        pipe.load_subject(make_subject(pipe))
    without = run(second, PROMPT, hooks=[])
    second.load_lora_weights(style(second, 0.0), adapter_name="nothing")
    assert torch.equal(run(second, PROMPT, hooks=[]), without)
    second.load_lora_weights(style(second), adapter_name="style")
    assert set(active_loras(first.unet)) == {"style", "subject-cube"}
    assert set(active_loras(second.unet)) == {"nothing", "style", "subject-cube"}
    both = run(first, PROMPT, hooks=[])
    torch.testing.assert_close(run(second, PROMPT, hooks=[]), both, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both, without)
    first.unload_subject()
    assert active_loras(first.unet) == ["style"]
    assert torch.equal(run(first, hooks=[]), alone)


def test_a_style_that_was_set_aside_stays_so(pipe, run, make_subject):
    plain = run(pipe, hooks=[])
    pipe.load_lora_weights(style(pipe), adapter_name="style")
    pipe.load_subject(make_subject(pipe))
    pipe.set_adapters("subject-cube")
    pipe.unload_subject()
    assert active_loras(pipe.unet) == []
    assert torch.equal(run(pipe, hooks=[]), plain)


def test_the_strength_of_a_subjects_lora_lasts(with_subject, run, tmp_path):
    full = run(with_subject, PROMPT, hooks=[])
    with_subject.set_adapters("subject-cube", 0.3)
    weak = run(with_subject, PROMPT, hooks=[])
    assert not torch.equal(weak, full)
    with_subject.save_pretrained(tmp_path)
    assert torch.equal(run(with_subject, PROMPT, hooks=[]), weak)
    with_subject.set_subject(None)
    with_subject.set_subject("cube")
    assert torch.equal(run(with_subject, PROMPT, hooks=[]), weak)


def test_a_scale_of_nothing_is_no_lora(with_subject, run):
    scaled = run(with_subject, PROMPT, hooks=[], cross_attention_kwargs={"scale": 0.0})
    assert not torch.allclose(scaled, run(with_subject, PROMPT, hooks=[]))
    with_subject.set_adapters("subject-cube", 0.0)
    torch.testing.assert_close(run(with_subject, PROMPT, hooks=[]), scaled, rtol=1e-4, atol=1e-4)


def test_what_is_fused_cannot_be_taken_apart(with_subject, run, make_subject, tmp_path):
    expected = run(with_subject, PROMPT, hooks=[])
    with_subject.fuse_lora()
    fused = run(with_subject, PROMPT, hooks=[])
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3)
    for call in (
        with_subject.unload_subject,
        lambda: with_subject.set_subject(None),
        lambda: with_subject.save_pretrained(tmp_path / "saved"),
        lambda: with_subject.load_subject(make_subject(with_subject, "<two>")),
    ):
        with pytest.raises(MVCustomError, match=r"'?subject-cube'? is fused into the weights.* call unfuse_lora"):
            call()
    assert not (tmp_path / "saved").exists()
    assert torch.equal(run(with_subject, PROMPT, hooks=[]), fused)
    with_subject.unfuse_lora()
    with_subject.unload_subject()
    assert with_subject.subject is None


@pytest.mark.parametrize("make", [MVCustomPipeline.from_pipe, lambda pipe: MVCustomPipeline(**pipe.components)])
def test_a_unet_with_a_subject_is_not_shared(with_subject, run, make):
    with pytest.raises(MVCustomError, match="unet: expected one without a subject"):
        make(with_subject)
    with_subject.unload_subject()
    assert torch.equal(run(make(with_subject), hooks=[]), run(with_subject, hooks=[]))


def test_a_subject_needs_its_word(with_subject, run):
    expected = run(with_subject, PROMPT, hooks=[])
    with_subject.unload_textual_inversion()
    with pytest.raises(MVCustomError, match="does not know the subject's token '<cube>' any more"):
        run(with_subject, PROMPT, hooks=[])
    with_subject.set_subject("cube")
    assert torch.equal(run(with_subject, PROMPT, hooks=[]), expected)
    with pytest.raises(MVCustomError, match="'<cube>' among the first 77 tokens"):
        run(with_subject, "a lake " * 60 + PROMPT, hooks=[])


def test_names_that_are_taken_or_no_names(pipe, make_subject):
    subject = make_subject(pipe)
    for name in ("", "a.b", 5):
        with pytest.raises(MVCustomError, match="adapter_name: expected a name without dots"):
            pipe.load_subject(subject, adapter_name=name)
    with pytest.raises(MVCustomError, match="subject: expected a SubjectAdapter, a folder or a Hub id, got a int"):
        pipe.load_subject(3)
    pipe.load_textual_inversion({"<cube>": torch.ones(32)}, token="<cube>")
    with pytest.raises(MVCustomError, match="token: '<cube>' is a word of this tokenizer already"):
        pipe.load_subject(subject)
    assert not pipe.subjects


def test_layers_of_the_text_encoder_are_skipped(pipe, run):
    last, earlier = run(pipe, hooks=[], clip_skip=0), run(pipe, hooks=[], clip_skip=1)
    torch.testing.assert_close(last, run(pipe, hooks=[]))
    assert not torch.allclose(earlier, last)
    for wrong in (3, -1, "1"):
        with pytest.raises(MVCustomError, match="clip_skip: expected a number of layers from 0 to 2"):
            run(pipe, hooks=[], clip_skip=wrong)


def test_a_depth_model_of_no_known_kind_is_refused(make_pipe):
    with pytest.raises(MVCustomError, match="depth_estimator: expected a depth model of transformers"):
        make_pipe(depth_estimator=torch.nn.Identity())


def test_what_nobody_looks_at_is_refused(with_subject, run):
    for ignored in ({"anchor": 1}, {"anchor": AnchorSettings(frames=1)}, {"anchor_depth": torch.ones(64, 64)}):
        with pytest.raises(MVCustomError, match=f"{next(iter(ignored))}: none of the hooks looks at it"):
            run(with_subject, PROMPT, hooks=[], **ignored)
    with pytest.raises(MVCustomError, match="num_references: expected at most the subject's"):
        run(with_subject, PROMPT, hooks=[], num_references=100)
