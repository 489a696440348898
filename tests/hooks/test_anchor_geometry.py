import pytest
import torch

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import FeatureWarp
from diffusers_mvcustom.hooks import AnchorGeometry, AnchorSettings


def row_of_cameras(shifts, height=6, width=8, focal=8.0):
    """Cameras side by side that look along +z, moved along +x."""
    poses = torch.eye(4).repeat(len(shifts), 1, 1)
    poses[:, 0, 3] = torch.tensor(shifts)
    return Cameras.from_focal(poses, focal, height, width)


def test_a_plane_shifts_by_its_disparity():
    focal, depth, shift = 8.0, 2.0, 0.5  # focal * shift / depth = 2 pixels
    cameras = row_of_cameras([0.0, shift], focal=focal)
    geometry = AnchorGeometry(torch.full((1, 1, 6, 8), depth), (0,), cameras)
    features = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    rendered = geometry.render(features)
    pixels = int(focal * shift / depth)
    assert torch.equal(rendered[0], features[0])  # the anchor keeps its own
    torch.testing.assert_close(rendered[1, :, :, :-pixels], features[0, :, :, pixels:])
    assert torch.equal(rendered[1, :, :, -pixels:], features[1, :, :, -pixels:])  # not seen by the anchor
    visibility = geometry.visibility(6, 8)
    assert visibility.shape == (1, 2, 6, 8)
    assert visibility[0, 0].all()
    assert visibility[0, 1, :, :-pixels].all()
    assert not visibility[0, 1, :, -pixels:].any()


def test_batches_and_guidance_branches_keep_apart():
    cameras = row_of_cameras([0.0, 0.5, -0.5])
    depth = torch.stack([torch.full((1, 6, 8), 2.0), torch.full((1, 6, 8), 4.0)])  # two batch elements
    geometry = AnchorGeometry(depth, (1,), cameras)
    features = torch.randn(2, 2, 3, 5, 6, 8, generator=torch.Generator().manual_seed(0))  # guidance, batch, frames
    rendered = geometry.render(features.flatten(0, 2)).reshape(features.shape)
    for b in range(2):
        single = AnchorGeometry(depth[b : b + 1], (1,), cameras)
        for g in range(2):
            assert torch.equal(rendered[g, b], single.render(features[g, b]))
    assert not torch.allclose(rendered[0, 0], rendered[0, 1])


def test_several_anchors_see_what_either_sees():
    cameras = row_of_cameras([-1.0, 0.0, 1.0])
    depth = torch.full((1, 2, 6, 8), 2.0)
    geometry = AnchorGeometry(depth, (0, 2), cameras)
    both = geometry.visibility(6, 8)[0, 1]
    left = AnchorGeometry(depth[:, :1], (0,), cameras).visibility(6, 8)[0, 1]
    right = AnchorGeometry(depth[:, 1:], (2,), cameras).visibility(6, 8)[0, 1]
    assert torch.equal(both, left | right)
    assert both.sum() > max(left.sum(), right.sum())
    features = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    rendered = geometry.render(features)
    assert torch.equal(rendered[0], features[0])
    assert torch.equal(rendered[2], features[2])
    # focal * shift / depth = 8 * 1 / 2 = 4 pixels to either side
    torch.testing.assert_close(rendered[1, :, :, :4], features[0, :, :, 4:])
    torch.testing.assert_close(rendered[1, :, :, 4:], features[2, :, :, :4])


def test_the_surface_in_front_hides_the_one_behind():
    cameras = row_of_cameras([0.0, 0.01, 0.02])
    near_and_far = torch.stack([torch.full((6, 8), 4.0), torch.full((6, 8), 1.0)])[None]
    geometry = AnchorGeometry(near_and_far, (0, 2), cameras)
    features = torch.stack([torch.zeros(1, 6, 8), torch.full((1, 6, 8), 5.0), torch.ones(1, 6, 8)])
    rendered = geometry.render(features)[1, 0, 1:-1, 1:-1]
    assert (rendered == 1).all()  # the second anchor's surface, at depth 1


def test_maps_of_other_sizes_are_the_same_geometry():
    cameras = row_of_cameras([0.0, 0.5], height=12, width=16, focal=16.0)
    geometry = AnchorGeometry(torch.full((1, 1, 24, 32), 2.0), (0,), cameras)
    assert geometry.visibility(6, 8)[0, 1].float().mean() == (8 - 2) / 8
    assert geometry.warps(6, 8) is geometry.warps(6, 8)
    plain = FeatureWarp.from_depth(torch.full((6, 8), 2.0), cameras.resize(6, 8)[0], cameras.resize(6, 8))
    assert torch.equal(geometry.warps(6, 8)[0].visibility[1], plain.visibility[1])


def test_half_precision_features():
    geometry = AnchorGeometry(torch.full((1, 1, 6, 8), 2.0), (0,), row_of_cameras([0.0, 0.5]))
    features = torch.randn(2, 3, 6, 8)
    half = geometry.render(features.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), geometry.render(features), rtol=1e-2, atol=1e-2)


def test_a_subject_that_is_left_out_is_neither_rendered_nor_rendered_over():
    """Everything moves by two pixels; the subject covers columns 4 and 5 of the anchor, and 1 of the other view."""
    cameras = row_of_cameras([0.0, 0.5])
    opacity = torch.zeros(2, 6, 8)
    opacity[0, :, 4:6], opacity[1, :, 1] = 1.0, 1.0
    depth = torch.full((1, 1, 6, 8), 2.0)
    geometry = AnchorGeometry(depth, (0,), cameras, subject=opacity)
    features = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    rendered = geometry.render(features)
    assert torch.equal(rendered[0], features[0])
    seen = geometry.warps(6, 8)[0].visibility[1]
    # Column x shows the column x + 2 of the anchor: there is no surface in 4 and 5, nor between them and their neighbours.
    assert seen.any(0).tolist() == [True, False, False, False, True, True, False, False]
    for column in (0, 4, 5):
        torch.testing.assert_close(rendered[1, :, :, column], features[0, :, :, column + 2])
    for column in (1, 2, 3, 6, 7):
        assert torch.equal(rendered[1, :, :, column], features[1, :, :, column])
    visible = geometry.visibility(6, 8)[0]
    assert visible[0].all()
    assert torch.equal(visible[1], seen | (opacity[1] > 0))  # it is known what stands there
    everything = AnchorGeometry(depth, (0,), cameras).visibility(6, 8)[0, 1]
    assert everything.sum() > seen.sum()
    half = geometry.visibility(3, 4)[0, 1]  # a third of a coarse pixel is enough
    assert half[:, 0].all()
    with pytest.raises(MVCustomError, match=r"subject: expected shape \(2, h, w\)"):
        AnchorGeometry(depth, (0,), cameras, subject=opacity[:1])


@pytest.mark.parametrize(
    "depth", [torch.ones(1, 2, 6, 8), torch.zeros(1, 1, 6, 8), torch.full((1, 1, 6, 8), torch.nan)]
)
def test_depth_that_cannot_be(depth):
    with pytest.raises(MVCustomError, match="depth"):
        AnchorGeometry(depth, (0,), row_of_cameras([0.0, 0.5]))


def test_settings():
    assert AnchorSettings().resolve(16) == (8,)
    assert AnchorSettings(frames=-1).resolve(16) == (15,)
    assert AnchorSettings(frames=[0, -1]).resolve(16) == (0, 15)
    assert AnchorSettings().preview_steps(50) == 10
    assert AnchorSettings().preview_steps(4) == 2
    assert AnchorSettings().preview_steps(1) == 1
    settings = AnchorSettings(frames=[0, 3], preview=0.1, discontinuity=0.2, align=False)
    assert AnchorSettings.from_dict(settings.to_dict()) == settings
    assert settings.with_frames(2).frames == 2
    assert settings.with_frames(None) is settings
    for wrong in ({"preview": 0.0}, {"discontinuity": -1.0}, {"render_subject": 1}, {"align": None}, {"ground": 0.0}):
        with pytest.raises(MVCustomError, match="AnchorSettings"):
            AnchorSettings(**wrong)
    for frames in (16, [], [1, 1], [1, -15], 1.5, True):
        with pytest.raises(MVCustomError, match="anchor"):
            AnchorSettings(frames=frames).resolve(16)


def test_other_anchors_compile_nothing_anew():
    """Which frame is the anchor is a value, not part of the compiled code."""
    cameras = Cameras.orbit(3, azimuth=(-20, 20), height=8, width=8)
    geometries = [AnchorGeometry(torch.full((1, 1, 8, 8), 0.9), (anchor,), cameras) for anchor in (1, 0, 2)]
    for geometry in geometries:
        geometry.warps(8, 8)  # as the hook does before the first step
    maps = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch._dynamo.reset()
    compiled = torch.compile(lambda geometry: geometry.render(maps), backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for geometry in geometries:
            torch.testing.assert_close(compiled(geometry), geometry.render(maps))
