import torch

from diffusers_mvcustom.pipelines.guidance import Branch, Conditions, combine, guidance_branches


def test_without_guidance_there_is_one_branch():
    assert guidance_branches(1.0, None, True) == ([Branch(True, True)], [])
    assert guidance_branches(1.0, 3.0, False) == ([Branch(True, False)], [])


def test_reference_guidance_without_text_guidance():
    branches, scales = guidance_branches(1.0, 3.0, True)
    assert branches == [Branch(True, False), Branch(True, True)]
    assert scales == [3.0]


def test_combination_is_the_formula():
    nothing, references, everything = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])
    guided = combine([nothing, references, everything], [3.0, 5.0])
    assert guided.item() == 1.0 + 3.0 * (2.0 - 1.0) + 5.0 * (4.0 - 2.0)


def test_text_guidance_alone_takes_the_subjects_features_as_they_lie():
    features = torch.randn(4, 3, 5, 2)  # two texts without guidance and two with, in three views
    conditions = Conditions(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), {"block": features})
    branches, _ = guidance_branches(5.0, None, True)
    together = conditions.subject_features(branches)["block"]
    one_by_one = [conditions.subject_features([branch])["block"] for branch in branches]
    assert torch.equal(together, features.flatten(0, 1))
    assert torch.equal(torch.cat(one_by_one), together)
    memory = features.untyped_storage().data_ptr()
    assert {states.untyped_storage().data_ptr() for states in (together, *one_by_one)} == {memory}
    turned = conditions.subject_features(branches[::-1])["block"]
    assert torch.equal(turned, torch.cat([features[2:], features[:2]]).flatten(0, 1))
    without, _ = guidance_branches(5.0, None, False)
    assert not conditions.subject_features(without)["block"].any()
    conditions = Conditions(torch.zeros(2, 1, 1), None, {"block": features[:2]})  # no guidance: one branch
    assert torch.equal(conditions.subject_features(branches[1:])["block"], features[:2].flatten(0, 1))


def test_conditions_are_in_the_batch_order_of_the_unet():
    batch, frames = 2, 3
    positive = torch.arange(batch).float().reshape(batch, 1, 1) + 10
    negative = torch.arange(batch).float().reshape(batch, 1, 1) + 20
    features = torch.arange(2 * batch * frames).float().reshape(2 * batch, frames, 1, 1)
    conditions = Conditions(positive, negative, {"block": features})
    branches, _ = guidance_branches(5.0, 3.0, True)
    text = conditions.text_states(branches, frames).flatten().tolist()
    assert text == [20.0] * 3 + [21.0] * 3 + [20.0] * 3 + [21.0] * 3 + [10.0] * 3 + [11.0] * 3
    rendered = conditions.subject_features(branches)["block"].flatten().tolist()
    assert rendered == [0.0] * 6 + list(range(6)) + list(range(6, 12))
    assert conditions.subject_features(branches)["block"] is conditions.subject_features(branches)["block"]
    conditions.replace_text(positive + 1, negative)
    assert conditions.text_states(branches, frames)[-1].item() == 12.0
