import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import SceneAttributes, caption_words, describe, read_caption
from diffusers_mvcustom.toy.attributes import ATTRIBUTE_VALUES, MAX_OBJECTS, Chooser
from diffusers_mvcustom.toy.tokenizer import word_tokenizer

ATTRIBUTES = st.builds(SceneAttributes, **{name: st.sampled_from(values) for name, values in ATTRIBUTE_VALUES.items()})
SEEDS = st.integers(0, 2**31)
MANY = settings(deadline=None, max_examples=60)


def sayable(attributes):
    """What a caption can name of a scene: not a pattern that is none, nor the kind of objects that are not there."""
    named = dict(vars(attributes))
    if attributes.pattern == "plain":
        del named["pattern"]
    if attributes.object_count == 0:
        del named["objects"], named["object_count"]
    return named


@MANY
@given(ATTRIBUTES)
def test_a_plain_caption_says_everything(attributes):
    assert read_caption(describe(attributes)) == sayable(attributes)


@MANY
@given(ATTRIBUTES, SEEDS)
def test_a_complete_caption_says_everything_in_whatever_words(attributes, seed):
    assert read_caption(describe(attributes, Chooser(seed), completeness=1.0)) == sayable(attributes)


@MANY
@given(ATTRIBUTES, SEEDS, st.floats(0, 1))
def test_a_caption_says_nothing_wrong(attributes, seed, completeness):
    caption = describe(attributes, Chooser(seed), completeness=completeness)
    assert read_caption(caption).items() <= sayable(attributes).items()
    assert read_caption(caption)["category"] == attributes.category
    assert describe(attributes, Chooser(seed), completeness=completeness) == caption


@MANY
@given(ATTRIBUTES, SEEDS)
def test_every_word_is_in_the_vocabulary(attributes, seed):
    caption = describe(attributes, Chooser(seed), completeness=1.0)
    assert set(caption.split()) <= set(caption_words())
    assert len(caption.split()) + 2 <= 32  # what the toy model's tokenizer takes


@MANY
@given(ATTRIBUTES, SEEDS)
def test_a_token_takes_the_place_of_the_subjects_looks(attributes, seed):
    caption = describe(attributes, Chooser(seed), token="<toy>", completeness=1.0)
    assert f"a <toy> {attributes.category}" in caption
    assert not read_caption(caption).keys() & {"color", "second_color", "pattern"}


@MANY
@given(ATTRIBUTES, st.integers(0, MAX_OBJECTS))
def test_objects_out_of_view_are_not_named(attributes, count):
    found = read_caption(describe(attributes, object_count=count))
    assert found.get("object_count", 0) == count


@MANY
@given(ATTRIBUTES, st.sets(st.sampled_from(["pattern", "second_color"])))
def test_what_is_not_in_view_is_not_named(attributes, unseen):
    expected = {name: value for name, value in sayable(attributes).items() if name not in unseen}
    assert read_caption(describe(attributes, unseen=unseen)) == expected


def test_articles():
    orange = SceneAttributes("car", "orange", "orange", "plain", "sand", "dusk", "tree", 0)
    assert describe(orange) == "an orange car with an orange roof on sand at dusk"
    assert describe(replace(orange, pattern="dotted")).startswith("a dotted orange car")


def test_some_captions_leave_something_out():
    scene = SceneAttributes("mug", "red", "blue", "striped", "grass", "noon", "rock", 2)
    lengths = [len(read_caption(describe(scene, Chooser(seed)))) for seed in range(200)]
    assert min(lengths) < 5
    assert max(lengths) == len(ATTRIBUTE_VALUES)
    assert 0.7 < (sum(lengths) / 200 - 1) / (len(ATTRIBUTE_VALUES) - 1) < 0.9  # 0.8 of what may be left out


def test_every_word_is_one_token():
    tokenizer = word_tokenizer(caption_words(), max_length=32)
    for word in caption_words():
        assert re.fullmatch(r"[a-z]+", word)
        ids = tokenizer(word)["input_ids"]
        assert len(ids) == 3, word
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == word
    text = "a striped red car with a yellow roof on sand at dusk with two trees"
    assert len(tokenizer(text)["input_ids"]) == len(text.split()) + 2


def test_labels_come_back():
    scene = SceneAttributes("duck", "pink", "black", "checked", "snow", "night", "tower", 2)
    assert SceneAttributes.from_labels(scene.labels()) == scene
    assert scene.labels()["object_count"] == 2


@pytest.mark.parametrize("change", [{"category": "boat"}, {"color": "gold"}, {"object_count": 4}])
def test_attributes_that_there_are_not(change):
    scene = SceneAttributes("duck", "pink", "black", "checked", "snow", "night", "tower", 2)
    with pytest.raises(MVCustomError, match=f"{next(iter(change))}: expected one of"):
        replace(scene, **change)
