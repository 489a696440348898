"""A depth estimate is brought into the world of the cameras: by the subject, and by the plane that it stands on."""

import pytest
import torch

from diffusers_mvcustom import AnchorSettings, Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import ground_height, plane_depth
from diffusers_mvcustom.pipelines.anchors import AnchorPreparation, AnchorViews
from diffusers_mvcustom.pipelines.subject_features import SubjectFeatures
from diffusers_mvcustom.pipelines.view_windows import ViewWindow
from diffusers_mvcustom.toy import build_scene, render
from diffusers_mvcustom.toy.splits import sample_attributes

SIZE, PLACE = 64, 2


@pytest.fixture(scope="module")
def scene():
    """Cameras, exact z-depth and masks of a toy subject on its ground, other things and sky left out of view."""
    attributes = sample_attributes("validation", 0)
    built = build_scene(attributes, subject_seed=0, surroundings_seed=0)
    cameras = Cameras.orbit(4, elevation=35.0, field_of_view=40.0, height=SIZE, width=SIZE)
    views = render(built.__class__(**{**vars(built), "objects": ()}), cameras)
    return cameras, views.depth[:, 0], views.masks[:, 0]


def preparation(scene, settings, opacity=None):
    cameras, depth, masks = scene
    subject = SubjectFeatures({}, torch.where(masks > 0.5, depth, 1.0), masks if opacity is None else opacity)
    window = ViewWindow(tuple(range(4)), (), (PLACE,))
    return AnchorPreparation(None, settings, window, cameras, None, None, subject, AnchorViews(), {})


def picture(depth, horizon, scale=2.5):
    """What a depth model says of a picture of the same plane whose horizon is elsewhere: another line in inverse depth."""
    return scale / (1 / depth + horizon)


def errors(scene, settings, estimate, surface=None, inverse=False, opacity=None):
    """Relative errors of the subject's and of the ground's z-depth."""
    _, depth, masks = scene
    aligned = preparation(scene, settings, opacity)._align(estimate, PLACE, surface, inverse)
    error = ((aligned - depth[PLACE]) / depth[PLACE]).abs()
    return error[masks[PLACE] > 0.5].median().item(), error[masks[PLACE] == 0].max().item()


@pytest.mark.parametrize("horizon", [-0.15, 0.0, 0.3])
@pytest.mark.parametrize("inverse", [False, True])
def test_another_horizon_is_brought_to_the_cameras(scene, horizon, inverse):
    estimate = picture(scene[1][PLACE], horizon)
    estimate = 1 / estimate if inverse else estimate
    subject, ground = errors(scene, AnchorSettings(), estimate, inverse=inverse)
    assert max(subject, ground) < 0.04  # the plane's height is off by as much


@pytest.mark.parametrize("horizon", [-0.15, 0.3])
def test_without_the_ground_it_is_not(scene, horizon):
    subject, ground = errors(scene, AnchorSettings(ground=False), picture(scene[1][PLACE], horizon))
    assert subject < 0.02
    assert ground > 0.15


def test_things_on_the_ground_keep_their_place(scene):
    cameras, depth, masks = scene
    thing = (slice(4, 14), slice(4, 14))  # nearer than the ground behind it
    with_thing = depth.clone()
    with_thing[PLACE][thing] = 0.9 * depth[PLACE][13, 9]
    _, ground = errors((cameras, with_thing, masks), AnchorSettings(), picture(with_thing[PLACE], 0.3))
    assert ground < 0.03


def both(scene, estimate, **view):
    """The depth that an estimate is fitted to, with and without the ground."""
    return [
        preparation(scene, AnchorSettings(ground=ground), **view)._align(estimate, PLACE, None, False)
        for ground in (True, False)
    ]


def wall(scene, far, lean):
    """A picture of the subject before a wall: its z-depth falls from the top of the picture to its bottom."""
    _, depth, masks = scene
    behind = torch.linspace(far, far - lean, SIZE)[:, None].expand(SIZE, SIZE)
    return 1.7 * torch.where(masks[PLACE] > 0.5, depth[PLACE], behind)


@pytest.mark.parametrize("lean", [0.0, 0.1, 0.5, 1.0, 1.5])
def test_before_a_wall_the_subject_alone_counts(scene, lean):
    with_ground, without = both(scene, wall(scene, 2.8, lean))
    assert torch.equal(with_ground, without)


def test_between_pillars_the_subject_alone_counts(scene):
    pillars = wall(scene, 1.3, 0.0)
    pillars[:, ::2] += 2.5 * (scene[2][PLACE][:, ::2] == 0)
    with_ground, without = both(scene, pillars)
    assert torch.equal(with_ground, without)


def test_where_it_would_move_the_subject_away_the_subject_alone_counts(scene):
    _, depth, masks = scene
    below = torch.where(masks[PLACE] > 0.5, depth[PLACE], 1.6 * depth[PLACE])  # it floats, and the ground is deeper
    with_ground, without = both(scene, below)
    assert torch.equal(with_ground, without)


def test_a_subject_that_is_rendered_has_to_stand_where_its_ground_is(scene):
    _, depth, masks = scene
    deeper = torch.where(masks[PLACE] > 0.5, depth[PLACE], 1.25 * depth[PLACE])
    aligned = {
        (render_subject, ground): preparation(
            scene, AnchorSettings(render_subject=render_subject, ground=ground)
        )._align(deeper, PLACE, None, False)
        for render_subject in (False, True)
        for ground in (False, True)
    }
    assert torch.equal(aligned[True, True], aligned[True, False])
    assert not torch.equal(aligned[False, True], aligned[False, False])


def test_a_subject_that_fills_everything_stands_on_nothing(scene):
    opaque = torch.zeros(4, SIZE, SIZE)
    opaque[:, 1:-1, 1:-1] = 1.0
    with_ground, without = both(scene, picture(scene[1][PLACE], 0.3), opacity=opaque)
    assert torch.equal(with_ground, without)


def test_what_earlier_anchors_saw_comes_before_the_ground(scene):
    _, depth, masks = scene
    hill = depth * 0.8  # the surroundings are not where the plane is
    surface = torch.where(masks[PLACE] > 0.5, torch.inf, hill[PLACE])
    estimate = picture(torch.where(masks[PLACE] > 0.5, depth[PLACE], hill[PLACE]), 0.3)
    aligned = preparation(scene, AnchorSettings())._align(estimate, PLACE, surface, False)
    around = masks[PLACE] == 0
    assert ((aligned - hill[PLACE]) / hill[PLACE]).abs()[around].max() < 0.02


@pytest.mark.parametrize("columns", [4, 8, 32])
def test_the_ground_does_not_move_what_earlier_anchors_saw(scene, columns):
    _, depth, masks = scene
    ground = torch.where(masks[PLACE] > 0.5, depth[PLACE], 1.25 * depth[PLACE])  # deeper than the plane
    surface = torch.full_like(ground, torch.inf)
    surface[:, :columns] = ground[:, :columns]
    aligned = preparation(scene, AnchorSettings())._align(ground, PLACE, surface, False)
    assert ((aligned - ground) / ground).abs()[:, :columns].median() <= 0.15


def test_windows_share_the_height_of_the_ground(scene):
    cameras, depth, masks = scene
    first = preparation(scene, AnchorSettings())
    first._align(depth[PLACE], PLACE, None, False)
    assert first.views.ground_height == pytest.approx(ground_height(depth, masks, cameras))
    first.views.ground_height = -0.4
    torch.testing.assert_close(first._ground_depth(PLACE), plane_depth(cameras, -0.4)[PLACE])


def test_an_estimate_of_zero_depth_is_refused(scene):
    estimate = picture(scene[1][PLACE], 0.3)
    estimate[0, 0] = 0.0
    for ground in (True, False):
        with pytest.raises(MVCustomError, match="estimate"):
            preparation(scene, AnchorSettings(ground=ground))._align(estimate, PLACE, None, False)
