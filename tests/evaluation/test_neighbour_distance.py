"""The distance of neighbours counts where they show one scene, and is the worst elsewhere."""

import pytest
import torch
from evaluation.view_sets import NONSENSE, nonsense, textured_views

from diffusers_mvcustom import MVCustomError
from diffusers_mvcustom.evaluation import NeighbourDistance, Tsed, neighbour_distance


def color_difference(one, other):
    return (one - other).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def views():
    return textured_views(count=4, height=192, width=256, of_ring=24)  # 15° apart


def test_distance_of_a_scene_is_that_of_its_neighbours(views):
    images, cameras = views
    numbers = neighbour_distance(images, cameras, color_difference)
    expected = sum((images[i] - images[i + 1]).abs().mean().item() for i in range(3)) / 3
    assert numbers["distance"] == pytest.approx(expected)
    assert numbers["ungated_distance"] == pytest.approx(expected)
    assert (numbers["pairs"], numbers["pairs_consistent"]) == (3, 3)


@pytest.mark.parametrize("kind", [kind for kind in NONSENSE if kind != "shuffled"])
def test_nonsense_is_as_far_as_can_be_though_alike(views, kind):
    images, cameras = views
    numbers = neighbour_distance(nonsense(kind, images), cameras, color_difference)
    assert numbers["distance"] == 1.0
    assert numbers["pairs_consistent"] == 0
    assert numbers["ungated_distance"] < 0.5


def test_views_in_the_wrong_order_are_far(views):
    images, cameras = views
    assert neighbour_distance(images[[2, 0, 3, 1]], cameras, color_difference)["distance"] == 1.0


def test_what_tsed_found_can_be_given(views):
    images, cameras = views
    agreements = Tsed().update(images, cameras)
    metric = NeighbourDistance(color_difference)
    metric.update(images, cameras, agreements)
    assert metric.compute() == neighbour_distance(images, cameras, color_difference)
    with pytest.raises(MVCustomError, match="all pairs of neighbouring views"):
        metric.update(images, cameras, agreements[:1])


def test_a_distance_beyond_the_worst_counts_as_the_worst(views):
    images, cameras = views
    far = neighbour_distance(images, cameras, lambda one, other: torch.full((len(one),), 7.0), worst=2.0)
    assert far["distance"] == 2.0
    assert far["ungated_distance"] == 7.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one, other: torch.tensor(0.5),
        lambda one, other: torch.zeros(len(one), 2),
        lambda one, other: torch.full((len(one),), torch.nan),
    ],
)
def test_a_callable_that_gives_no_number_a_pair_is_refused(views, wrong):
    images, cameras = views
    with pytest.raises(MVCustomError, match="one finite number for each of 3 pairs"):
        neighbour_distance(images, cameras, wrong)
