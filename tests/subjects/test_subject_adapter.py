import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import CamerasError, MVCustomError
from diffusers_mvcustom.models.pose_conditioned_block import PoseConditionedTransformerBlock
from diffusers_mvcustom.subjects import (
    SubjectAdapter,
    collect_reference_features,
    feature_map_size,
    initial_token_embedding,
    render_features,
    render_subject_features,
)
from diffusers_mvcustom.toy import random_components

MID = "mid_block.attentions.0.transformer_blocks.0"
FRAMES = 3  # the classic trap


def sample_of(unet):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 4, FRAMES, 12, 16, generator=generator)
    text = torch.randn(2 * FRAMES, 7, 32, generator=generator)
    with torch.no_grad():
        return unet(sample, 500, encoder_hidden_states=text).sample


def modules_of(unet: nn.Module) -> dict[str, int]:
    return {name: id(module) for name, module in unet.named_modules()}


def render(adapter, unet, cameras, **options):
    generator = torch.Generator().manual_seed(2)
    arguments = {
        "reference_latents": torch.randn(4, 4, 12, 16, generator=generator),
        "references": adapter.references.select(4),
        "reference_prompt_embeds": torch.randn(1, 7, 32, generator=generator),
        "prompt_embeds": torch.randn(2, 7, 32, generator=generator),
        "cameras": cameras,
        "latent_size": (12, 16),
    }
    return render_subject_features(adapter, unet, **{**arguments, **options})


def with_features(adapter, unet, rendering):
    """The U-Net's output with the subject, text 0 for the first video and text 1 for the second."""
    with adapter.conditioning.rendered({name: f.flatten(0, 1) for name, f in rendering.features.items()}):
        return sample_of(unet)


def assert_the_mid_block_is_conditioned(adapter, unet):
    expected = sample_of(unet)
    adapter.attach(unet)
    with torch.no_grad():
        adapter.conditioner(MID).projection.difference.weight.add_(0.1)
        rendering = render(adapter, unet, adapter.references.cameras[:3])
    assert not torch.equal(with_features(adapter, unet, rendering), expected)


# --- attach and detach ---


def test_a_fresh_subject_changes_nothing(adapter, unet):
    expected = sample_of(unet)
    adapter.attach(unet)
    assert torch.equal(sample_of(unet), expected)
    with torch.no_grad():
        rendering = render(adapter, unet, adapter.references.cameras[[0, 4, 8]])
    assert all(features.abs().max() > 0 for features in rendering.features.values())
    assert torch.equal(with_features(adapter, unet, rendering), expected)


def test_a_trained_subject_changes_the_output_only_where_it_is_told_to(trained, unet):
    expected = sample_of(unet)
    trained.attach(unet)
    with torch.no_grad():
        rendering = render(trained, unet, trained.references.cameras[[0, 4, 8]])
    assert torch.equal(sample_of(unet), expected)  # nothing is left on modules
    assert (with_features(trained, unet, rendering) - expected).abs().mean() > 1e-3
    assert torch.equal(sample_of(unet), expected)


def test_detached_the_unet_is_as_before(trained, unet):
    expected, keys, modules = sample_of(unet), list(unet.state_dict()), modules_of(unet)
    weights = {key: value.clone() for key, value in unet.state_dict().items()}
    for _ in range(2):
        trained.attach(unet)
        assert trained.is_attached
        assert {n for n, m in unet.named_modules() if isinstance(m, PoseConditionedTransformerBlock)} == set(
            trained.block_names
        )
        with torch.no_grad():
            with_features(trained, unet, render(trained, unet, trained.references.cameras[[0, 4, 8]]))
        trained.detach(unet)
        assert not trained.is_attached
        assert list(unet.state_dict()) == keys
        assert modules_of(unet) == modules
        assert all(torch.equal(unet.state_dict()[key], weights[key]) for key in keys)
        assert torch.equal(sample_of(unet), expected)


def test_attached_the_stock_weights_keep_their_names_and_the_adapter_is_in_the_unet(adapter, unet):
    keys = list(unet.state_dict())
    adapter.attach(unet)
    attached = unet.state_dict()
    assert [key for key in attached if "pose_conditioner" not in key] == keys
    held = {id(parameter) for parameter in unet.parameters()}
    assert all(id(parameter) in held for parameter in adapter.parameters())  # so offloading and .to() reach it


def test_an_exception_in_a_call_leaves_nothing_behind(trained, unet):
    expected = sample_of(unet)
    trained.attach(unet)
    with torch.no_grad():
        features = {
            n: f.flatten(0, 1) for n, f in render(trained, unet, trained.references.cameras[:3]).features.items()
        }
    features[MID] = features[MID][1:]
    with pytest.raises(MVCustomError, match="features"), trained.conditioning.rendered(features):
        sample_of(unet)
    assert torch.equal(sample_of(unet), expected)
    trained.detach(unet)
    assert torch.equal(sample_of(unet), expected)


def test_training_modes_survive_attaching(adapter, unet):
    unet.train()
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.eval()
    before = {name: module.training for name, module in unet.named_modules()}
    adapter.attach(unet)
    after = {name: module.training for name, module in unet.named_modules()}
    assert {name: after[name] for name in before} == before


def test_settings_made_while_attached_survive_detaching(adapter, unet):
    adapter.attach(unet)
    unet.enable_forward_chunking(chunk_size=2, dim=1)
    unet.train()
    adapter.detach(unet)
    block = unet.get_submodule(MID)
    assert (block._chunk_size, block._chunk_dim, block.training) == (2, 1, True)


def test_a_second_subject_is_refused(adapter, unet, cube_views):
    other = SubjectAdapter.create(unet, cube_views, "<other>", "cube", blocks=[MID])
    adapter.attach(unet)
    modules = modules_of(unet)
    with pytest.raises(MVCustomError, match="another subject is attached"):
        other.attach(unet)
    with pytest.raises(MVCustomError, match="already attached"):
        adapter.attach(unet)
    with pytest.raises(MVCustomError, match="not attached to this U-Net"):
        other.detach(unet)
    assert modules_of(unet) == modules
    adapter.detach(unet)
    other.attach(unet)
    with pytest.raises(MVCustomError, match="not attached to this U-Net"):
        adapter.detach(unet)
    with pytest.raises(MVCustomError, match="not attached to this U-Net"):
        other.detach(copy.deepcopy(unet.__class__.from_config(unet.config)))


def test_a_unet_of_other_shapes_is_refused_before_anything_is_changed(adapter, unet):
    config = dict(unet.config)
    wider = unet.__class__.from_config({**config, "block_out_channels": (16, 64, 64)})
    shallow = unet.__class__.from_config(
        {
            **config,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "UpBlockMotion"),
        }
    )
    for other, message in ((wider, "expected blocks with the channels"), (shallow, "lacks the blocks")):
        modules = modules_of(other)
        with pytest.raises(MVCustomError, match=message):
            adapter.attach(other)
        assert modules_of(other) == modules
        assert not adapter.is_attached
    adapter.attach(unet)


def test_offloading_hooks_are_refused(adapter, unet):
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    cpu_offload(unet, execution_device=torch.device("cpu"))
    modules = modules_of(unet)
    with pytest.raises(MVCustomError, match="load the subject before enabling"):
        adapter.attach(unet)
    assert modules_of(unet) == modules
    remove_hook_from_module(unet, recurse=True)
    assert_the_mid_block_is_conditioned(adapter, unet)


def test_group_offloading_is_refused(adapter, unet):
    from diffusers.hooks import ModelHook
    from diffusers.hooks.hooks import HookRegistry

    block = unet.get_submodule(MID)
    for module in (block.attn1, block):
        registry = HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(ModelHook(), "group_offloading")
        with pytest.raises(MVCustomError, match="load the subject before enabling"):
            adapter.attach(unet)
        registry.remove_hook("group_offloading")
    assert_the_mid_block_is_conditioned(adapter, unet)  # the hook's trace on the block does not bypass it


def test_compiled_blocks_are_refused(adapter, unet):
    unet.get_submodule(MID).compile(backend="eager")
    with pytest.raises(MVCustomError, match="load the subject before compiling"):
        adapter.attach(unet)


def test_the_adapter_follows_the_unet(adapter, unet):
    unet.to(torch.bfloat16)
    adapter.attach(unet)
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        rendering = render_subject_features(
            adapter,
            unet,
            reference_latents=torch.zeros(12, 4, 12, 16, dtype=torch.bfloat16),
            references=adapter.references,
            reference_prompt_embeds=torch.zeros(1, 7, 32, dtype=torch.bfloat16),
            prompt_embeds=torch.zeros(1, 7, 32, dtype=torch.bfloat16),
            cameras=adapter.references.cameras[:3],
            latent_size=(12, 16),
        )
    assert all(features.isfinite().all() for features in rendering.features.values())


# --- rendering ---


def test_features_have_the_shapes_of_the_target_maps(trained, unet):
    trained.attach(unet)
    cameras = trained.references.cameras[[1, 5, 9]].cover(40, 72)  # 10 × 18 latents, references have 12 × 16
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        rendering = render_subject_features(
            trained,
            unet,
            reference_latents=torch.randn(5, 4, 12, 16, generator=generator),
            references=trained.references.select(5),
            reference_prompt_embeds=torch.randn(1, 7, 32, generator=generator),
            prompt_embeds=torch.randn(2, 7, 32, generator=generator),
            cameras=cameras,
            latent_size=(10, 18),
        )
    assert list(rendering.features) == trained.block_names
    assert {name: tuple(features.shape) for name, features in rendering.features.items()} == {
        "down_blocks.1.attentions.0.transformer_blocks.0": (2, 3, 5 * 9, 32),
        MID: (2, 3, 3 * 5, 32),
        "up_blocks.1.attentions.0.transformer_blocks.0": (2, 3, 5 * 9, 32),
        "up_blocks.1.attentions.1.transformer_blocks.0": (2, 3, 5 * 9, 32),
    }
    assert rendering.opacity.shape == rendering.depth.shape == (3, 5, 9)
    assert rendering.rgb.shape == (3, 5, 9, 3)


def test_features_depend_on_text_camera_and_references(trained, unet):
    trained.attach(unet)
    cameras = trained.references.cameras[[0, 4, 8]]
    with torch.no_grad():
        rendering = render(trained, unet, cameras)
        again = render(trained, unet, cameras)
        others = render(trained, unet, trained.references.cameras[[1, 4, 8]])
    for name, features in rendering.features.items():
        assert torch.equal(features, again.features[name])
        assert (features[0] - features[1]).abs().max() > 1e-4  # two texts
        assert (features[:, 0] - others.features[name][:, 0]).abs().max() > 1e-4  # another camera
        torch.testing.assert_close(features[:, 1:], others.features[name][:, 1:], atol=1e-4, rtol=1e-4)


def test_each_text_has_its_own_features_in_the_texts_order(trained, unet):
    trained.attach(unet)
    text = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        together = render(trained, unet, trained.references.cameras[:2], prompt_embeds=text)
        for i in range(3):
            alone = render(trained, unet, trained.references.cameras[:2], prompt_embeds=text[i : i + 1])
            for name in trained.block_names:
                torch.testing.assert_close(together.features[name][i], alone.features[name][0], atol=1e-5, rtol=1e-4)


def test_cameras_may_be_given_at_any_size_of_the_same_view(trained, unet):
    trained.attach(unet)
    cameras, references = trained.references.cameras[[0, 4, 8]], trained.references.select(4)
    with torch.no_grad():
        expected = render(trained, unet, cameras)
        larger = render(trained, unet, cameras.resize(480, 320))
        smaller = render(trained, unet, cameras, references=replace(references, masks=None).cameras.resize(12, 16))
        unmasked = render(trained, unet, cameras, references=replace(references, masks=None))
    for name in trained.block_names:
        torch.testing.assert_close(larger.features[name], expected.features[name], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(smaller.features[name], unmasked.features[name], atol=1e-3, rtol=1e-3)
    # a narrower view is another view
    zoomed = replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([2.0, 2.0, 1.0])[:, None])
    with torch.no_grad():
        other = render(trained, unet, zoomed)
    assert (other.features[MID] - expected.features[MID]).abs().max() > 1e-3


def test_masks_hide_what_is_not_the_subject(trained, unet):
    trained.attach(unet)
    cameras, references = trained.references.cameras[:3], trained.references.select(4)
    with torch.no_grad():
        masked = render(trained, unet, cameras)
        given = render(trained, unet, cameras, references=references.cameras, reference_masks=references.masks)
        everything = render(trained, unet, cameras, reference_masks=torch.ones_like(references.masks))
        unmasked = render(trained, unet, cameras, references=references.cameras)
    for name in trained.block_names:
        assert torch.equal(masked.features[name], given.features[name])
        torch.testing.assert_close(everything.features[name], unmasked.features[name], atol=1e-5, rtol=1e-4)
    assert (masked.features[MID] - unmasked.features[MID]).abs().max() > 1e-4


def test_later_blocks_sample_where_the_earlier_found_the_subject(trained, unet):
    trained.attach(unet)
    with torch.no_grad():
        guided, unguided = (
            render(trained, unet, trained.references.cameras[:3], importance_sampling=on) for on in (True, False)
        )
    first, *later = trained.block_names
    assert torch.equal(guided.features[first], unguided.features[first])
    assert all(not torch.equal(guided.blocks[name].density, unguided.blocks[name].density) for name in later)


def test_samples_are_jittered_only_when_asked_and_by_the_generator(trained, unet):
    trained.attach(unet)

    def densities(seed, **options):
        features = collect_reference_features(trained, unet, latents, torch.zeros(1, 7, 32))
        generator = torch.Generator().manual_seed(seed)
        references, cameras = trained.references.select(2), trained.references.cameras[:3]
        with torch.no_grad():
            return render_features(
                trained, unet, features, references, None, cameras, (12, 16), generator=generator, **options
            ).blocks[MID]

    latents = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(densities(0).density, densities(1).density)
    assert torch.equal(densities(0, stratified=True).density, densities(0, stratified=True).density)
    assert not torch.equal(densities(0, stratified=True).density, densities(1, stratified=True).density)


def test_chunks_of_rays_bound_the_work_at_a_time_and_change_nothing(trained, unet):
    trained.attach(unet)
    largest = []
    block = unet.get_submodule(trained.block_names[-1])
    block.attn2.to_q.register_forward_pre_hook(lambda _, args: largest.append(args[0].numel()))
    with torch.no_grad():
        whole = render(trained, unet, trained.references.cameras[:3])
        at_once = max(largest)
        largest.clear()
        chunked = render(trained, unet, trained.references.cameras[:3], rays_per_chunk=7)
    assert max(largest) < at_once / 4
    for name in trained.block_names:
        torch.testing.assert_close(chunked.features[name], whole.features[name], atol=1e-5, rtol=1e-4)


def test_collected_features_are_the_blocks_states_row_by_row(trained, unet):
    trained.attach(unet)
    states = {}
    for name in trained.block_names:  # what the feed-forward's norm sees is what the block hands to FeatureNeRF
        unet.get_submodule(name).norm3.register_forward_pre_hook(
            lambda _, args, name=name: states.update({name: args[0]})
        )
    latents = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    features = collect_reference_features(trained, unet, latents, torch.zeros(1, 7, 32))
    for name in trained.block_names:
        height, width = feature_map_size(unet, name, 12, 16)
        assert features[name].shape[-2:] == (height, width)
        for y, x in ((0, 1), (1, 0), (height - 1, width - 2)):
            assert torch.equal(features[name][:, :, y, x], states[name][:, y * width + x])


def test_references_are_seen_as_single_images(trained, unet):
    """One reference's features do not depend on the others, nor on the motion modules' weights."""
    trained.attach(unet)
    latents = torch.randn(3, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
    together = collect_reference_features(trained, unet, latents, text)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "motion_modules" in name:
                parameter.zero_()
    alone = collect_reference_features(trained, unet, latents[1:2], text)
    assert list(together) == trained.block_names
    for name, features in together.items():
        torch.testing.assert_close(alone[name], features[1:2], atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_feature_nerfs_and_the_prompt_but_not_the_references(trained, unet):
    unet.requires_grad_(False)
    trained.attach(unet)
    trained.requires_grad_(True)
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(3, 4, 12, 16, generator=generator, requires_grad=True)
    text = torch.randn(2, 7, 32, generator=generator, requires_grad=True)
    rendering = render_subject_features(
        trained,
        unet,
        reference_latents=latents,
        references=trained.references.select(3),
        reference_prompt_embeds=torch.randn(1, 7, 32, generator=generator),
        prompt_embeds=text,
        cameras=trained.references.cameras[:3],
        latent_size=(12, 16),
        stratified=True,
        generator=generator,
    )
    sum(features.square().sum() for features in rendering.features.values()).backward()
    assert latents.grad is None
    assert text.grad.abs().max() > 0
    for name in trained.block_names:
        grads = [p.grad for p in trained.conditioner(name).feature_nerf.parameters() if p.grad is not None]
        assert any(grad.abs().max() > 0 for grad in grads)


def test_noisy_references_need_a_scheduler(unet, cube_views):
    adapter = SubjectAdapter.create(unet, cube_views, "<v>", "cube", reference_timestep=100)
    adapter.attach(unet)
    with pytest.raises(MVCustomError, match="scheduler"):
        render(adapter, unet, cube_views.cameras[:3])
    first, again, other = (
        render(
            adapter,
            unet,
            cube_views.cameras[:3],
            scheduler=DDIMScheduler(),
            generator=torch.Generator().manual_seed(seed),
        ).features[MID]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rendering_needs_an_attached_subject(adapter, unet):
    with pytest.raises(MVCustomError, match="not attached"):
        render(adapter, unet, adapter.references.cameras[:3])


# --- creation and parts ---


def test_creation_takes_blocks_and_settings(unet, cube_views):
    adapter = SubjectAdapter.create(unet, cube_views, "<v>", "cube", blocks=r"mid_block\..*", num_references=3)
    assert adapter.block_names == [MID]
    assert adapter.config.num_references == 3
    assert adapter.config.initializer_token == "cube"
    assert adapter.learned_embeddings == {}
    assert adapter.lora_state_dict is None
    with pytest.raises(MVCustomError, match=r"blocks: .*no\.such.*Available"):
        SubjectAdapter.create(unet, cube_views, "<v>", "cube", blocks=["no.such"])


def test_embeddings_and_lora_are_checked(adapter):
    with pytest.raises(MVCustomError, match="token_embedding"):
        adapter.token_embedding = torch.zeros(1, 2, 3)
    with pytest.raises(MVCustomError, match="token_embedding"):
        adapter.token_embedding = torch.full((4,), torch.nan)
    with pytest.raises(MVCustomError, match="lora_state_dict"):
        adapter.lora_state_dict = {"unet.conv_in.weight": torch.zeros(1)}
    adapter.token_embedding = torch.ones(4, requires_grad=True)
    assert not adapter.learned_embeddings["<my-cube>"].requires_grad


def test_a_new_word_starts_as_a_known_one(unet, cube_views):
    components = random_components(depth_estimator=False)
    tokenizer, text_encoder = components["tokenizer"], components["text_encoder"]
    table = text_encoder.get_input_embeddings().weight
    one = tokenizer("mug", add_special_tokens=False)["input_ids"]
    assert len(one) == 1
    assert torch.equal(initial_token_embedding(tokenizer, text_encoder, "mug"), table[one[0]])
    two = tokenizer("red mug", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(initial_token_embedding(tokenizer, text_encoder, "red mug"), table[two].mean(dim=0))
    with pytest.raises(MVCustomError, match="initializer_token"):
        initial_token_embedding(tokenizer, text_encoder, "")
    models = {"text_encoder": text_encoder, "tokenizer": tokenizer}
    adapter = SubjectAdapter.create(unet, cube_views, "<v>", "cube", initializer_token="mug", **models)
    assert torch.equal(adapter.learned_embeddings["<v>"], table[one[0]])
    with pytest.raises(MVCustomError, match="both or neither"):
        SubjectAdapter.create(unet, cube_views, "<v>", "cube", tokenizer=tokenizer)


def test_cameras_that_cannot_show_the_subject_are_refused(adapter, cube_views, caplog):
    cameras = cube_views.cameras
    adapter.check_cameras(cameras)
    turned = cameras.camera_to_world.clone()
    turned[:, :, 1:3] *= -1  # OpenGL axes
    with pytest.raises(CamerasError, match="look away"):
        adapter.check_cameras(Cameras(turned, cameras.intrinsics, cameras.height, cameras.width))
    distant = cameras.camera_to_world.clone()
    distant[:, :3, 3] *= 100
    with pytest.raises(CamerasError, match="another unit"):
        adapter.check_cameras(Cameras(distant, cameras.intrinsics, cameras.height, cameras.width))
    assert not caplog.records
    distant[1:] = cameras.camera_to_world[1:]
    adapter.check_cameras(Cameras(distant, cameras.intrinsics, cameras.height, cameras.width))
    assert "1 are more than" in caplog.text
