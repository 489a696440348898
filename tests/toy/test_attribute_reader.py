import pytest
import torch

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.toy import ATTRIBUTE_VALUES, AttributeReader, text_alignment


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return AttributeReader(channels=(4, 8, 8)).eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_every_attribute_gets_a_score_for_each_value(reader, images):
    scores = reader(images)
    assert {name: tuple(score.shape) for name, score in scores.items()} == {
        name: (5, len(values)) for name, values in ATTRIBUTE_VALUES.items()
    }
    assert not torch.allclose(scores["color"][0], scores["color"][1])


def test_read_names_the_best_scored_values(reader, images):
    scores = reader(images)
    for number, found in enumerate(reader.read(images)):
        for name, value in found.items():
            assert value == ATTRIBUTE_VALUES[name][scores[name][number].argmax()]


def test_objects_that_are_not_there_have_no_kind(reader, images):
    count = reader.answers["object_count"]
    with torch.no_grad():
        count.weight.zero_()
        count.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
        assert all("objects" not in found and found["object_count"] == 0 for found in reader.read(images))
        count.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        assert all("objects" in found and found["object_count"] == 2 for found in reader.read(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_it_comes_back_from_its_folder(reader, images, tmp_path, dtype):
    reader.to(dtype).save_pretrained(tmp_path)
    loaded = AttributeReader.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config.channels == [4, 8, 8]
    reader.float()
    assert {name: score.tolist() for name, score in loaded(images).items()} == {
        name: score.tolist() for name, score in reader(images).items()
    }


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32)])
def test_what_is_no_batch_of_pictures_is_refused(reader, shape):
    with pytest.raises(MVCustomError, match=r"images: expected shape \(N, 3, H, W\)"):
        reader(torch.zeros(shape))


def test_text_alignment_counts_what_was_asked_for():
    asked = [{"category": "car", "color": "red"}, {"category": "mug", "objects": "tree", "object_count": 2}]
    found = [
        {"category": "car", "color": "blue", "ground": "sand"},
        {"category": "mug", "object_count": 2, "objects": "rock"},
    ]
    shares = text_alignment(found, asked)
    assert shares == {"category": 1.0, "color": 0.0, "objects": 0.0, "object_count": 1.0, "all": 3 / 5}
    assert text_alignment([{"category": "car", "object_count": 0}], [{"objects": "tree"}]) == {
        "objects": 0.0,
        "all": 0.0,
    }
    assert text_alignment([], []) == {}
    with pytest.raises(MVCustomError, match="found: expected one of each of the 2 captions, got 1"):
        text_alignment(found[:1], asked)
