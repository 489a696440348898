import pytest
import torch

from diffusers_mvcustom import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry.rays import camera_rays, pixel_centers, project
from diffusers_mvcustom.toy import SceneAttributes, build_scene, render, sample_scene
from diffusers_mvcustom.toy.rendering import SHOWN, SKY_RADIUS
from diffusers_mvcustom.toy.scene import FIELD_OF_VIEW, FIRST_OBJECT, GROUND, SKY, SUBJECT
from diffusers_mvcustom.toy.subjects import SUBJECT_RADIUS


@pytest.fixture(scope="module")
def scene():
    """One with other objects, some of them large."""
    scene = sample_scene("train", 26)
    assert scene.attributes.object_count >= 2
    return scene


@pytest.fixture(scope="module")
def cameras():
    """Two that see much of the same; not square."""
    return Cameras.orbit(2, azimuth=(10, 40), elevation=18, height=48, width=64)


@pytest.fixture(scope="module")
def views(scene, cameras):
    return render(scene, cameras)


def world_points(views):
    """What every pixel's centre shows, by its depth alone: `(V, H, W, 3)`."""
    cameras = views.cameras
    pixels = pixel_centers(cameras.height, cameras.width).view(1, -1, 2)
    origins, directions = camera_rays(cameras.camera_to_world, cameras.intrinsics, pixels, normalize=False)
    points = origins + directions * views.depth.flatten(1)[..., None]
    return points.view(len(cameras), cameras.height, cameras.width, 3)


def test_shapes_ranges_and_dtypes(views):
    assert views.images.shape == (2, 3, 48, 64)
    assert views.depth.shape == views.masks.shape == views.index.shape == views.shows.shape == (2, 1, 48, 64)
    assert views.images.min() >= 0
    assert views.images.max() <= 1
    assert views.images.std() > 0.05
    assert (views.depth > 0).all()
    assert views.depth.isfinite().all()
    assert set(views.masks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(views.masks == 1, views.index == SUBJECT)
    assert {SKY, GROUND, SUBJECT, FIRST_OBJECT} <= set(views.index.unique().tolist())


def test_depth_puts_everything_where_it_is(scene, views):
    points, index = world_points(views), views.index[:, 0]
    height = points[index == GROUND][:, 1]
    assert torch.allclose(height, torch.full_like(height, scene.ground.height), atol=1e-4)
    distance = points[index == SKY].norm(dim=-1)
    assert torch.allclose(distance, torch.full_like(distance, SKY_RADIUS), rtol=1e-4)
    assert points[index == SUBJECT].norm(dim=-1).max() <= SUBJECT_RADIUS + 1e-4
    for number, thing in enumerate(scene.objects):
        seen = points[index == FIRST_OBJECT + number]
        if len(seen):
            solids = thing.solids()
            away = (seen[:, None] - solids.centers).norm(dim=-1) - solids.bounding_radii
            assert away.amin(dim=1).max() < 1e-4


def test_two_views_agree_on_what_both_see(views):
    points = world_points(views)[0].reshape(1, -1, 3)
    there = views.cameras[1]
    pixels, depth = project(points, there.world_to_camera, there.intrinsics)
    pixels, depth = pixels[0], depth[0]
    inside = (depth > 0) & (pixels > 1).all(-1) & (pixels < torch.tensor([63.0, 47.0])).all(-1)
    assert inside.float().mean() > 0.5
    column, row = pixels[inside].floor().long().unbind(-1)
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    depths = torch.stack([views.depth[1, 0, row + y, column + x] for y, x in around])
    things = torch.stack([views.index[1, 0, row + y, column + x] for y, x in around])
    depth, thing = depth[inside], views.index[0, 0].flatten()[inside]
    # What one view sees is never in front of what the other sees there ...
    assert (depth > depths.amin(0) - 1e-3).float().mean() > 0.995
    # ... and most of it is just what the other sees.
    seen = depth < depths.amax(0) + 1e-3
    assert seen.float().mean() > 0.75
    assert (things == thing).any(0)[seen].float().mean() > 0.995
    at_subject = thing == SUBJECT
    assert seen[at_subject].float().mean() > 0.6


def test_supersampled_colours_are_means_of_finer_ones(scene, cameras):
    fine = render(scene, cameras.resize(96, 128), supersampling=1)
    coarse = render(scene, cameras, supersampling=2)
    means = torch.nn.functional.avg_pool2d(fine.images, 2)
    bright = (
        torch.nn.functional.max_pool2d(fine.images, 2) == 1
    )  # what is brighter is cut off after the mean, not before
    assert bright.float().mean() < 0.05
    torch.testing.assert_close(coarse.images[~bright], means[~bright], atol=1e-5, rtol=0)
    single = render(scene, cameras, supersampling=1)
    for name in ("depth", "masks", "index"):
        assert torch.equal(getattr(single, name), getattr(coarse, name))
    assert not torch.allclose(single.images, coarse.images, atol=0.05)


def test_shadows_only_darken(scene, cameras):
    dark, bright = (render(scene, cameras, supersampling=1, shadows=shadows) for shadows in (True, False))
    assert (dark.images <= bright.images + 1e-6).all()
    assert (dark.images < bright.images - 0.02).any()
    assert torch.equal(dark.depth, bright.depth)


def test_the_same_scene_gives_the_same_picture_and_each_camera_its_own(scene, cameras, views):
    assert torch.equal(render(sample_scene("train", 26), cameras).images, views.images)
    assert not torch.equal(render(sample_scene("train", 4), cameras).images, views.images)
    alone = render(scene, cameras[1])
    torch.testing.assert_close(alone.images[0], views.images[1], atol=1e-5, rtol=0)
    assert torch.equal(alone.index[0], views.index[1])


def test_other_objects_in_view_are_counted(views):
    counts = views.visible_objects()
    for view, count in enumerate(counts.tolist()):
        shares = [
            (views.index[view] == which).float().mean().item() for which in range(FIRST_OBJECT, FIRST_OBJECT + 2)
        ]
        assert count == sum(share >= 0.01 for share in shares)
    assert (views.visible_objects(0.9) == 0).all()


def test_which_attributes_of_the_subject_show():
    """A duck's beak is seen from the front and not from behind; its patterned body from both."""
    attributes = SceneAttributes("duck", "yellow", "red", "striped", "sand", "noon", "tree", 0)
    scene = build_scene(attributes, subject_seed=1, surroundings_seed=1)
    views = render(
        scene, Cameras.orbit(2, azimuth=(0, 180), elevation=25, field_of_view=FIELD_OF_VIEW, height=64, width=64)
    )
    assert [views.unseen(view) for view in range(2)] == [set(), {"second_color"}]
    assert ((views.shows == 0) | (views.index == SUBJECT)).all()
    red = views.images[0, 0] - views.images[0, 1]
    beak = views.shows[0, 0] == 1 + SHOWN.index("second_color")
    assert red[beak].mean() > red[(views.shows == 1 + SHOWN.index("pattern"))[0, 0]].mean() + 0.2
    shares = views.shares()
    assert shares.shape == (2, 4)
    assert (shares[:, 2:] == 0).all()
    for column, name in enumerate(SHOWN):
        torch.testing.assert_close(
            shares[:, column], (views.shows == 1 + column).float().mean(dim=(1, 2, 3)), msg=name
        )


@pytest.mark.parametrize("supersampling", [0, -1, True])
def test_supersampling_has_to_be_a_number_of_rays(scene, cameras, supersampling):
    with pytest.raises(MVCustomError, match="supersampling: expected a whole number of at least 1"):
        render(scene, cameras, supersampling=supersampling)


@pytest.mark.parametrize("place", [(0.0, -2.0, 1.0), (0.0, 40.0, 1.0)])
def test_cameras_have_to_be_between_ground_and_sky(scene, cameras, place):
    poses = cameras.camera_to_world.clone()
    poses[0, :3, 3] = torch.tensor(place)
    bad = Cameras(poses, cameras.intrinsics, cameras.height, cameras.width)
    with pytest.raises(
        MVCustomError, match=r"cameras: expected centres above the ground .* within 30.0 of the origin"
    ):
        render(scene, bad)
