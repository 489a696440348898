import pytest
import torch
from reference import raster_loops
from reference.raster_scenes import looking_at, stepped_depth

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.geometry import FeatureWarp, feature_mesh_from_depth, rasterize

HEIGHT, WIDTH = 9, 12
CENTERS = [[0.3, 0.2, -0.9], [-0.5, 0.0, -0.8], [0.0, -0.4, -1.0]]


def anchor_camera(height=HEIGHT, width=WIDTH):
    return looking_at([0.0, 0.0, -1.0], [0.0, 0.0, 0.0], 1.1 * width, height, width)


def targets(count, height=10, width=8):
    return Cameras.cat([looking_at(c, [0.0, 0.0, 0.3], 9.0, height, width) for c in CENTERS[:count]])


def a_warp(count=3, **size):
    return FeatureWarp.from_depth(stepped_depth(HEIGHT, WIDTH, 1), anchor_camera(), targets(count, **size))


@pytest.mark.parametrize("count", [1, 3])
def test_values_and_gradients_agree_with_the_loop(count):
    warp = a_warp(count)
    assert 0.1 < warp.visibility.double().mean() < 0.95
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, HEIGHT, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    fast = warp.warp(features)
    slow = raster_loops.warp(features, warp.indices, warp.weights).reshape(count, 3, 10, 8)
    torch.testing.assert_close(fast, slow)
    upstream = torch.randn(slow.shape, dtype=torch.float64, generator=generator)
    (fast_gradient,) = torch.autograd.grad((fast * upstream).sum(), features)
    (slow_gradient,) = torch.autograd.grad((slow * upstream).sum(), features)
    assert slow_gradient.abs().max() > 0.1
    torch.testing.assert_close(fast_gradient, slow_gradient)


def test_depth_to_warped_features_agrees_with_ray_casting():
    camera, cameras = anchor_camera(), targets(3)
    mesh = feature_mesh_from_depth(stepped_depth(HEIGHT, WIDTH, 1), camera)
    features = torch.randn(2, HEIGHT * WIDTH, dtype=torch.float64)
    warped = FeatureWarp.from_rasterization(rasterize(mesh, cameras), mesh).warp(features.reshape(2, HEIGHT, WIDTH))
    for n in range(3):
        face, weights, _, front = raster_loops.cast(
            mesh.vertices, mesh.faces, cameras.camera_to_world[n], cameras.intrinsics[n], 10, 8
        )
        corners = features[:, mesh.faces[torch.from_numpy(face).clamp(min=0)]]  # [C, H, W, 3]
        expected = (corners * torch.from_numpy(weights)).sum(-1) * torch.from_numpy(front)
        torch.testing.assert_close(warped[n], expected, rtol=0, atol=1e-5)


def test_noise_keeps_its_variance():
    warp = a_warp()
    noise = torch.randn(20_000, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    warped = warp.for_noise().warp(noise)  # [N, 20,000, H, W]
    variance = warped.var(dim=1)
    assert (variance[~warp.visibility] == 0).all()
    torch.testing.assert_close(variance[warp.visibility], torch.ones(int(warp.visibility.sum())), atol=0.06, rtol=0)
    plain = warp.warp(noise).var(dim=1)[warp.visibility]
    assert plain.mean() < 0.7  # a mean of several is weaker than each
    camera = anchor_camera()
    own = FeatureWarp.from_depth(stepped_depth(HEIGHT, WIDTH, 1), camera, camera).for_noise()
    seen = own.visibility[0]
    torch.testing.assert_close(own.warp(noise[:4])[0][:, seen], noise[:4, seen], atol=1e-3, rtol=0)


@pytest.mark.parametrize("leading", [(), (2,), (3,), (1, 2), (3, 3)])
@pytest.mark.parametrize("count", [1, 3])
def test_any_leading_dimensions(leading, count):
    warp = a_warp(count)
    features = torch.randn(*leading, 3, HEIGHT, WIDTH)
    warped = warp.warp(features)
    assert warped.shape == (*leading, count, 3, 10, 8)
    one_by_one = [warp.warp(maps) for maps in features.reshape(-1, 3, HEIGHT, WIDTH)]
    assert torch.equal(warped, torch.stack(one_by_one).reshape(warped.shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_features_is_kept_and_summed_in_float32(dtype):
    warp = a_warp().to(dtype=torch.float32)
    features = torch.randn(2, HEIGHT, WIDTH, dtype=torch.float64).to(dtype)
    warped = warp.warp(features)
    assert warped.dtype == dtype
    exact = warp.warp(features.double())
    half_a_last_place = torch.finfo(dtype).eps / 2
    limit = torch.finfo(torch.float32).eps * 4 * features.double().abs().max()
    assert ((warped.double() - exact).abs() <= half_a_last_place * exact.abs() + limit).all()


@pytest.mark.parametrize("size", [(8, 8), (9, 16), (64, 48)])
def test_the_anchors_own_view_reproduces_its_features(size):
    camera = anchor_camera(*size).to(dtype=torch.float32)
    depth = stepped_depth(*size, 2).float()
    warp = FeatureWarp.from_depth(depth, camera, camera)
    assert warp.visibility.all()
    features = torch.randn(5, *size)
    torch.testing.assert_close(warp.warp(features)[0], features, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("right", "down"), [(0.5, 0.0), (0.0, -0.25), (1.0, 0.5)])
def test_moving_before_a_frontal_plane_shifts_by_focal_times_baseline_over_depth(right, down):
    focal, z, height, width = 24.0, 6.0, 12, 20
    pose = torch.eye(4)[None]
    camera = Cameras.from_focal(pose, focal, height, width)
    moved = pose.clone()
    moved[0, :2, 3] = torch.tensor([right, down])
    target = Cameras.from_focal(moved, focal, height, width)
    warp = FeatureWarp.from_depth(torch.full((height, width), z), camera, target)
    shift_x, shift_y = round(focal * right / z), round(focal * down / z)
    features = torch.randn(2, height, width)
    expected = torch.zeros_like(features)
    rows, columns = range(max(0, -shift_y), min(height, height - shift_y)), range(width - shift_x)
    for row in rows:
        for column in columns:
            expected[:, row, column] = features[:, row + shift_y, column + shift_x]
    assert warp.visibility.sum() == len(rows) * len(columns)
    torch.testing.assert_close(warp.warp(features)[0], expected, rtol=0, atol=2e-5)


def test_invisible_pixels_are_zero_with_valid_indices():
    warp = a_warp()
    hidden = ~warp.visibility.flatten(1)
    assert hidden.any()
    assert (warp.weights[hidden] == 0).all()
    assert (warp.indices >= 0).all()
    assert (warp.indices < HEIGHT * WIDTH).all()
    torch.testing.assert_close(warp.weights[~hidden].sum(-1), torch.ones(int((~hidden).sum()), dtype=torch.float64))
    assert (warp.warp(torch.ones(1, HEIGHT, WIDTH))[:, 0][~warp.visibility] == 0).all()


def test_a_mesh_without_faces_warps_to_zero():
    camera = anchor_camera(4, 4)
    checkerboard = torch.ones(4, 4) + (torch.arange(4) + torch.arange(4)[:, None]) % 2
    warp = FeatureWarp.from_depth(checkerboard, camera, targets(2))
    assert not warp.visibility.any()
    assert (warp.warp(torch.ones(1, 4, 4)) == 0).all()


def test_options_reach_the_mesh_and_the_rasteriser():
    camera, depth = anchor_camera(), stepped_depth(HEIGHT, WIDTH, 1)
    assert FeatureWarp.from_depth(depth, camera, camera, near=10.0).visibility.sum() == 0
    valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    valid[4, 5] = False
    assert torch.equal(FeatureWarp.from_depth(depth, camera, camera, valid=valid).visibility[0], valid)
    cut, uncut = (
        FeatureWarp.from_depth(depth, camera, targets(3), discontinuity=limit).visibility.sum() for limit in (0.2, 9.0)
    )
    assert cut < uncut


def test_moving_a_warp():
    warp = a_warp()
    moved = warp.to("cpu", torch.float16)
    assert moved.weights.dtype == moved.depth.dtype == torch.float16
    assert moved.indices.dtype == torch.int64
    assert moved.source_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3, WIDTH, HEIGHT), "features: .*source size"),
        (torch.ones(HEIGHT, WIDTH), "features: expected"),
        (torch.ones(3, HEIGHT, WIDTH, dtype=torch.int64), "features: expected floating"),
    ],
)
def test_wrong_features_are_named(features, message):
    with pytest.raises(MVCustomError, match=message):
        a_warp().warp(features)
