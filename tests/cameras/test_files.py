"""Camera files: round trips, real ones, and everything that can be wrong with them."""

import contextlib
import gzip
import json
import math
import struct
import time

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusers_mvcustom.cameras import (
    CONVENTIONS,
    Cameras,
    camera_to_world_in,
    cameras_from_convention,
    cameras_from_pytorch3d,
    cameras_to_pytorch3d,
    load_cameras,
    load_capture,
    save_cameras,
)
from diffusers_mvcustom.cameras.colmap import quaternion_to_rotation, rotation_to_quaternion
from diffusers_mvcustom.errors import CamerasError, MVCustomError

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def any_cameras(draw):
    """Any cameras: any rotation, off-centre principal point, non-square, one to five of them."""
    count = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    q = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))[0]
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = q * torch.linalg.det(q).sign()[:, None, None]
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64) * draw(
        st.sampled_from([1e-3, 1.0, 1e3])
    )
    height, width = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(count if draw(st.booleans()) else 1, 1, 1)
    intrinsics[:, 0, 0] = draw(st.floats(1, 1e4))
    intrinsics[:, 1, 1] = draw(st.floats(1, 1e4)) + torch.rand(
        len(intrinsics), generator=generator, dtype=torch.float64
    )
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = draw(st.floats(-100, 4000)), draw(st.floats(-100, 4000))
    return Cameras(poses, intrinsics.expand(count, 3, 3), height, width)


@QUICK
@given(any_cameras(), st.sampled_from(["transforms_json", "colmap", "colmap_text", "real_estate10k"]))
def test_round_trip(tmp_path_factory, cameras, format):
    folder = tmp_path_factory.mktemp("cameras")
    name = {"transforms_json": "transforms.json", "real_estate10k": "cameras_of_a_clip.txt"}.get(format, "model")
    save_cameras(folder / name, cameras, format=format)
    size = {"height": cameras.height, "width": cameras.width} if format == "real_estate10k" else {}
    loaded = load_cameras(folder / name, **size)
    assert loaded.dtype == torch.float64
    assert loaded.allclose(cameras, rtol=1e-9, atol=1e-9)
    assert [file.name for file in folder.iterdir()] == [name]  # nothing half-written is left


@QUICK
@given(any_cameras(), st.sampled_from(sorted(CONVENTIONS)))
def test_every_convention_and_back(cameras, convention):
    poses = camera_to_world_in(cameras, convention)
    given_back = cameras_from_convention(
        poses, cameras.intrinsics, cameras.height, cameras.width, convention=convention
    )
    assert given_back.allclose(cameras, rtol=1e-9, atol=1e-9)


@QUICK
@given(any_cameras(), st.sampled_from(["ndc_isotropic", "ndc_norm_image_bounds", "screen"]))
def test_pytorch3d_and_back(cameras, unit):
    rotation, translation, focal, principal = cameras_to_pytorch3d(cameras, intrinsics_in=unit)
    back = cameras_from_pytorch3d(
        rotation, translation, focal, principal, cameras.height, cameras.width, intrinsics_in=unit
    )
    assert back.allclose(cameras, rtol=1e-9, atol=1e-7)


def test_conventions_by_hand():
    """A camera at (1, 2, 3) that looks along +x of the world, its image's top up (+y)."""
    ours = torch.tensor([[0.0, 0, 1, 1], [0, -1, 0, 2], [1, 0, 0, 3], [0, 0, 0, 1]])
    cameras = Cameras.from_focal(ours[None], 10.0, 20, 40)
    opengl = camera_to_world_in(cameras, "opengl")[0]
    torch.testing.assert_close(opengl[:3, 1], torch.tensor([0.0, 1.0, 0.0]))  # up
    torch.testing.assert_close(opengl[:3, 2], torch.tensor([-1.0, 0.0, 0.0]))  # backward
    rotation, translation, focal, principal = cameras_to_pytorch3d(cameras)
    point = torch.tensor([[4.0, 2.5, 3.25]])  # 3 ahead, 0.5 up, 0.25 to the right
    torch.testing.assert_close(
        point @ rotation[0] + translation, torch.tensor([[-0.25, 0.5, 3.0]])
    )  # left, up, forward
    torch.testing.assert_close(focal[0], torch.tensor([10.0, 10.0]) / (20 / 2))
    torch.testing.assert_close(principal[0], torch.zeros(2))
    assert cameras_to_pytorch3d(cameras, intrinsics_in="ndc_norm_image_bounds")[2][0].tolist() == [10 / 20, 10 / 10]
    with pytest.raises(CamerasError, match="expected one of opencv"):
        camera_to_world_in(cameras, "unreal")


def test_quaternions():
    generator = torch.Generator().manual_seed(0)
    quaternion = torch.nn.functional.normalize(torch.randn(100, 4, generator=generator, dtype=torch.float64), dim=-1)
    quaternion = torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)
    torch.testing.assert_close(rotation_to_quaternion(quaternion_to_rotation(quaternion)), quaternion)
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64))
    torch.testing.assert_close(quaternion_to_rotation(rotation_to_quaternion(half_turns)), half_turns)


def test_pycolmap_reads_what_we_write(tmp_path):
    cameras = Cameras.orbit(5, height=30, width=40)
    points = torch.randn(7, 3), torch.randint(0, 255, (7, 3))
    save_cameras(tmp_path / "model", cameras, points=points, names=[f"{i}.png" for i in range(5)])
    model = pycolmap.Reconstruction(tmp_path / "model")
    assert (model.num_images(), model.num_points3D()) == (5, 7)
    for i, image in enumerate(sorted(model.images.values(), key=lambda image: image.name)):
        pose = image.cam_from_world().matrix()
        np.testing.assert_allclose(pose, cameras.world_to_camera[i, :3].numpy(), atol=1e-6)
        np.testing.assert_allclose(image.camera.calibration_matrix(), cameras.intrinsics[i].numpy(), rtol=1e-6)
    np.testing.assert_allclose(model.points3D[1].xyz, points[0][0].numpy(), rtol=1e-6)
    assert model.points3D[1].color.tolist() == points[1][0].tolist()


@pytest.mark.parametrize("write", ["write_binary", "write_text"])
def test_we_read_what_pycolmap_writes(tmp_path, write):
    cameras = Cameras.orbit(4, height=30, width=40)
    save_cameras(tmp_path / "ours", cameras, names=[f"{i}.png" for i in range(4)])
    (tmp_path / "theirs").mkdir()
    getattr(pycolmap.Reconstruction(tmp_path / "ours"), write)(tmp_path / "theirs")  # with rigs and frames
    capture = load_capture(tmp_path / "theirs")
    assert capture.cameras.allclose(cameras, atol=1e-5)
    assert capture.names == ("0.png", "1.png", "2.png", "3.png")


def test_the_buddha_photos(buddha):
    capture = load_capture(buddha)
    assert (len(capture), capture.cameras.height, capture.cameras.width) == (13, 385, 684)
    assert all(path.is_file() for path in (*capture.image_paths, *capture.mask_paths))
    assert capture.distortion is None


def transforms(**change):
    frame = {"file_path": "a.png", "transform_matrix": torch.eye(4).tolist()}
    content = {
        "fl_x": 10.0,
        "fl_y": 12.0,
        "cx": 5.5,
        "cy": 4.0,
        "w": 12,
        "h": 8,
        "frames": [frame, {**frame, "file_path": "b.png"}],
    }
    return {**content, **change}


def write(folder, content, name="transforms.json"):
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / name


def test_transforms_json_in_its_varieties(tmp_path):
    plain = load_cameras(write(tmp_path, transforms()))
    assert plain.intrinsics[0].tolist() == [[10.0, 0, 5.5], [0, 12.0, 4.0], [0, 0, 1]]
    torch.testing.assert_close(
        plain.optical_axes[0], torch.tensor([0.0, 0, -1], dtype=torch.float64)
    )  # OpenGL looks along -z
    angle = transforms(camera_angle_x=math.pi / 2)
    for name in ("fl_x", "fl_y", "cx", "cy"):
        del angle[name]
    assert load_cameras(write(tmp_path, angle)).intrinsics[0].tolist()[0] == pytest.approx([6.0, 0, 6.0])
    per_frame = transforms()
    per_frame["frames"] = [{**frame, "fl_x": 20.0 + i} for i, frame in enumerate(per_frame["frames"])]
    assert load_cameras(write(tmp_path, per_frame)).focal[:, 0].tolist() == [20.0, 21.0]
    moved = transforms(applied_transform=[[1, 0, 0, 5], [0, 0, 1, 0], [0, -1, 0, 0]])
    assert load_cameras(write(tmp_path, moved)).centers[0].tolist() == [-5.0, 0.0, 0.0]


def test_distorted_photos_are_refused_or_given_with_their_lens(tmp_path):
    file = write(tmp_path, transforms(k1=0.1, p1=0.01, camera_model="OPENCV"))
    with pytest.raises(CamerasError, match="undistorted"):
        load_cameras(file)
    assert load_capture(file).distortion.radial == (0.1,)


def bad_frame(**change):
    frame = {"file_path": "a.png", "transform_matrix": torch.eye(4).tolist(), **change}
    return transforms(frames=[frame])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[1, 2]", "object"),
        (transforms(frames=[]), "frames"),
        (transforms(frames={"a": 1}), "frames"),
        (transforms(w=None), "w: expected"),
        (transforms(h=8.5), "h: expected"),
        (transforms(fl_x=float("nan")), "fl_x"),
        (transforms(fl_x=0.0), "focal"),
        (transforms(fl_x="wide"), "fl_x"),
        (transforms(camera_model="EQUIRECTANGULAR"), "camera_model"),
        (transforms(applied_transform=[[0] * 4] * 3), "applied_transform"),
        (bad_frame(transform_matrix=[[1, 0], [0, 1]]), r"frames\[0\].*transform_matrix"),
        (bad_frame(transform_matrix=(2 * torch.eye(4)).tolist()), "bottom row"),
        (bad_frame(transform_matrix=None), "transform_matrix"),
        (bad_frame(file_path="../outside.png"), "leads out"),
        (bad_frame(file_path="/etc/passwd"), "leads out"),
        (bad_frame(file_path=3), "path"),
        (bad_frame(mask_path="a/../../b.png"), "leads out"),
        (
            transforms(frames=[*transforms()["frames"], {**transforms()["frames"][0], "fl_x": 3.0}]),
            "all frames or in none",
        ),
        (
            transforms(frames=[{**f, "fl_x": 9.0, "w": 10 + i} for i, f in enumerate(transforms()["frames"])]),
            "1 of 10 × 8",
        ),
    ],
)
def test_malformed_transforms_json(tmp_path, content, message):
    with pytest.raises(MVCustomError, match=message) as caught:
        load_capture(write(tmp_path, content))
    assert "transforms.json" in str(caught.value)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
def test_colmap_files_that_claim_too_much(tmp_path, name):
    save_cameras(tmp_path / "model", Cameras.orbit(3), points=(torch.zeros(2, 3), torch.zeros(2, 3)))
    file = tmp_path / "model" / name
    file.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8:])
    started = time.perf_counter()
    with pytest.raises(MVCustomError, match=name):
        load_cameras(tmp_path / "model")
    assert time.perf_counter() - started < 5


@QUICK
@given(st.data())
def test_truncated_or_scrambled_colmap_files(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_cameras(folder, Cameras.orbit(3), data.draw(st.sampled_from(["colmap", "colmap_text"])))
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, max(len(content) - 1, 0)))]
    elif content:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    with contextlib.suppress(MVCustomError):  # the only kind of error that may come out
        load_capture(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one camera"),
        ("https://\n1 2 3\n", "line 2"),
        ("https://\n" + " ".join(["nan"] * 19) + "\n", "line 2"),
        ("https://\n" + " ".join(["0"] * 19) + "\n", "singular"),
    ],
)
def test_malformed_real_estate10k(tmp_path, text, message):
    with pytest.raises(MVCustomError, match=message):
        load_cameras(write(tmp_path, text, "clip.txt"), height=4, width=6)


def test_real_estate10k_needs_a_size(tmp_path):
    save_cameras(tmp_path / "clip.txt", Cameras.orbit(3))
    with pytest.raises(CamerasError, match="height, width"):
        load_cameras(tmp_path / "clip.txt")


def co3d(folder, unit, frames=None):
    cameras = Cameras.orbit(3, height=30, width=40, field_of_view=60.0)
    rotation, translation, focal, principal = (
        value.tolist() for value in cameras_to_pytorch3d(cameras, intrinsics_in=unit)
    )
    annotations = [
        {
            "sequence_name": "1_2_3",
            "image": {"path": f"cup/1_2_3/images/{i}.jpg", "size": [30, 40]},
            "mask": {"path": f"cup/1_2_3/masks/{i}.png"},
            "viewpoint": {
                "R": rotation[i],
                "T": translation[i],
                "focal_length": focal[i],
                "principal_point": principal[i],
                "intrinsics_format": unit,
            },
        }
        for i in range(3)
    ]
    file = folder / "cup" / "frame_annotations.jgz"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(annotations if frames is None else frames(annotations)).encode()))
    return file, cameras


@pytest.mark.parametrize("unit", ["ndc_isotropic", "ndc_norm_image_bounds"])
def test_co3d(tmp_path, unit):
    file, cameras = co3d(tmp_path, unit)
    capture = load_capture(file)
    assert capture.cameras.allclose(cameras, atol=1e-5)
    assert capture.image_paths[1] == tmp_path / "cup" / "1_2_3" / "images" / "1.jpg"
    assert capture.mask_paths[1] == tmp_path / "cup" / "1_2_3" / "masks" / "1.png"


def other_sequence(frames):
    return [*frames, {**frames[0], "sequence_name": "4_5_6"}]


def without_viewpoint(frames):
    return [{**frame, "viewpoint": None} for frame in frames]


def outside(frames):
    return [{**frame, "image": {"path": "../../x.jpg", "size": [30, 40]}} for frame in frames]


@pytest.mark.parametrize(
    ("change", "message"), [(other_sequence, "4_5_6"), (without_viewpoint, "frame 0"), (outside, "leads out")]
)
def test_malformed_co3d(tmp_path, change, message):
    file, _ = co3d(tmp_path, "ndc_isotropic", change)
    with pytest.raises(MVCustomError, match=message):
        load_capture(file)
    file.write_bytes(b"not gzip")
    with pytest.raises(MVCustomError, match="gzipped"):
        load_capture(file)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(MVCustomError, match=str(path)):
            load_capture(path)
    with pytest.raises(CamerasError, match="format"):
        save_cameras(tmp_path / "cameras.xyz", Cameras.orbit(2))
    with pytest.raises(CamerasError, match="names"):
        save_cameras(tmp_path / "cameras.json", Cameras.orbit(2), names=["one"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cameras.json", "model"])
def test_a_size_given_for_a_file_that_has_one_resizes_nothing(tmp_path, name):
    cameras = Cameras.orbit(3, height=30, width=40)
    save_cameras(tmp_path / name, cameras)
    assert load_cameras(tmp_path / name, height=128, width=96).allclose(cameras.to(dtype=torch.float64), atol=1e-5)
