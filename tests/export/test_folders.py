import json

import numpy as np
import pycolmap
import pytest
import torch
import trimesh
from PIL import Image

from diffusers_mvcustom.cameras import load_cameras, load_capture
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.export import check_export, dense_points, observed_points, save_views


@pytest.fixture
def saved(scene, middle, tmp_path):
    """Saves the scene's views, with all that is asked for."""

    def save(name="out", **options):
        options = {"geometry": [middle], "formats": ["colmap", "ply", "gif"], **options}
        save_views(tmp_path / name, scene.images[None], scene.cameras, **options)
        return tmp_path / name

    return save


def check_reconstruction(model, scene, cameras):
    """What an independent reader finds: cameras, and points whose projections are where the images have them."""
    assert model.num_reg_images() == 5
    assert model.num_points3D() > 500
    observations = 0
    exact = cameras.to(dtype=torch.float64)
    world_to_camera = torch.linalg.inv(exact.camera_to_world).numpy()
    for image in model.images.values():
        index = int(image.name.removesuffix(".png"))
        found = image.cam_from_world().matrix()
        np.testing.assert_allclose(found, world_to_camera[index][:3], atol=1e-5)
        lens = model.cameras[image.camera_id]
        np.testing.assert_allclose(lens.calibration_matrix(), exact.intrinsics[index].numpy(), rtol=1e-6)
        for place, seen in enumerate(image.points2D):
            assert seen.has_point3D()
            point = model.points3D[seen.point3D_id]
            tracked = [(element.image_id, element.point2D_idx) for element in point.track.elements]
            assert tracked.count((image.image_id, place)) == 1
            at = lens.img_from_cam(image.cam_from_world() * point.xyz)
            assert np.linalg.norm(at - seen.xy) < 0.5
            observations += 1
    assert observations == sum(point.track.length() for point in model.points3D.values())
    assert min(point.track.length() for point in model.points3D.values()) >= 2
    assert model.compute_mean_reprojection_error() < 0.01


@pytest.mark.parametrize("kind", ["colmap", "colmap-text"])
@pytest.mark.parametrize("world", ["subject", "user"])
def test_a_colmap_model_with_points(saved, scene, pictures, middle, user_frame, kind, world):
    frame = user_frame if world == "user" else None
    folder = saved(formats=[kind], subject_frame=frame)
    cameras = scene.cameras if frame is None else frame.to_user(scene.cameras)
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    check_reconstruction(model, scene, cameras)
    points = observed_points(middle, scene.cameras, pictures)
    positions = points.positions if frame is None else frame.points_to_user(points.positions)
    ids = sorted(model.points3D)
    np.testing.assert_allclose([model.points3D[i].xyz for i in ids], positions.numpy(), rtol=1e-9)
    assert (np.array([model.points3D[i].color for i in ids]) == points.colors.numpy()).all()
    assert {file.suffix for file in (folder / "sparse" / "0").iterdir()} == {".bin" if kind == "colmap" else ".txt"}


def test_both_ways_of_writing_hold_the_same(saved):
    folder = saved(formats=["colmap", "colmap-text"])
    (folder / "text").mkdir()
    for file in (folder / "sparse" / "0").glob("*.txt"):
        file.rename(folder / "text" / file.name)
    binary, text = (pycolmap.Reconstruction(folder / name) for name in ("sparse/0", "text"))
    assert binary.num_points3D() == text.num_points3D()
    for number, point in binary.points3D.items():
        np.testing.assert_allclose(text.points3D[number].xyz, point.xyz, rtol=1e-12)
        assert str(text.points3D[number].track.elements) == str(point.track.elements)


def test_two_anchors_share_a_model(saved, scene, ends):
    folder = saved(geometry=[ends])
    check_reconstruction(pycolmap.Reconstruction(folder / "sparse" / "0"), scene, scene.cameras)


@pytest.mark.parametrize("world", ["subject", "user"])
def test_a_coloured_point_cloud(saved, scene, pictures, middle, user_frame, world):
    frame = user_frame if world == "user" else None
    folder = saved(subject_frame=frame)
    cloud = trimesh.load(folder / "points.ply")
    positions, colors = dense_points(middle, scene.cameras, pictures)
    positions = positions if frame is None else frame.points_to_user(positions)
    np.testing.assert_allclose(cloud.vertices, positions.numpy(), rtol=1e-5, atol=1e-5)
    assert (cloud.colors[:, :3] == colors.numpy()).all()
    assert json.loads((folder / "transforms.json").read_text())["ply_file_path"] == "points.ply"


def test_what_a_folder_holds(saved, scene):
    folder = saved(formats=None)
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert names == {
        *(f"images/{i:04d}.png" for i in range(5)),
        *(f"sparse/0/{name}.bin" for name in ("cameras", "images", "points3D")),
        *("contact_sheet.png", "points.ply", "transforms.json", "views.gif", "views.mp4"),
    }
    capture = load_capture(folder)
    assert capture.cameras.allclose(scene.cameras, atol=1e-5)
    assert load_cameras(folder / "sparse" / "0").allclose(scene.cameras, atol=1e-5)
    assert [path.name for path in capture.image_paths] == [f"{i:04d}.png" for i in range(5)]
    assert not list(folder.parent.glob(".*"))


def test_cameras_come_back_to_the_subject_frame(saved, scene, user_frame):
    folder = saved(subject_frame=user_frame)
    written = load_cameras(folder / "transforms.json")
    assert not written.allclose(scene.cameras, atol=0.1)
    assert user_frame.to_subject(written).allclose(scene.cameras, atol=1e-5)


def test_what_an_earlier_call_wrote_goes(saved, scene):
    folder = saved(formats=["gif", "ply", "colmap"])
    (folder / "notes.txt").write_text("mine")
    save_views(folder, scene.images[None, :3], scene.cameras[:3], formats=["webp"])
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["contact_sheet.png", "images", "notes.txt", "transforms.json", "views.webp"]
    assert len(list((folder / "images").iterdir())) == 3


@pytest.mark.parametrize("name", ["images", "sparse"])
def test_photos_of_the_user_are_left_alone(scene, tmp_path, name):
    (tmp_path / "mug" / name).mkdir(parents=True)
    (tmp_path / "mug" / name / "0000.jpg").write_bytes(b"mine")
    with pytest.raises(MVCustomError, match=r"mug holds .*0000\.jpg"):
        check_export(tmp_path / "mug")
    with pytest.raises(MVCustomError, match="Name another folder"):
        save_views(tmp_path / "mug", scene.images[None], scene.cameras)
    assert (tmp_path / "mug" / name / "0000.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("ending", ["gif", "mp4", "webp", "png", "ply"])
def test_one_file_by_its_name(saved, scene, tmp_path, ending):
    file = saved(f"new/mug.{ending}", formats=None)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [file.name]
    if ending == "ply":
        assert len(trimesh.load(file).vertices) > 2000
    elif ending == "png":
        assert Image.open(file).size == (3 * 64, 2 * 48)
    elif ending != "mp4":
        assert Image.open(file).n_frames == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["avi"]}, "formats: expected some of gif, mp4"),
        ({"formats": ["ply"], "geometry": None}, "ply needs the anchors' depth"),
        ({"name": "mug.ply", "formats": None, "geometry": None}, "ply needs the anchors' depth"),
        ({"name": "mug.webp"}, "says what is written"),
        ({"fps": 0}, "fps"),
    ],
)
def test_what_cannot_be_saved_is_refused(saved, tmp_path, options, message):
    with pytest.raises(MVCustomError, match=message):
        saved(**options)
    assert not list(tmp_path.iterdir())


def test_one_file_holds_one_set(scene, tmp_path):
    with pytest.raises(MVCustomError, match="one set of views, got 2"):
        save_views(tmp_path / "mug.gif", scene.images[None].expand(2, -1, -1, -1, -1))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MVCustomError, match=r"expected a folder, or a file that ends with \.gif"):
        check_export(tmp_path / "notes.txt")
    for name in ("mug.jpg", "mug.MOV", "mug.tar.gz", "mug.tgz", "mug.pt"):
        with pytest.raises(MVCustomError, match=r"ends with \.gif, .*, got .*mug"):
            check_export(tmp_path / name)
    (tmp_path / "a.zip").mkdir()
    check_export(tmp_path / "a.zip")  # a folder that is there is one
    check_export(tmp_path / "v1.5")


def test_without_cameras_there_are_pictures_only(scene, tmp_path):
    save_views(tmp_path / "out", scene.images[None], formats=["gif"])
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["contact_sheet.png", "images", "views.gif"]
    with pytest.raises(MVCustomError, match="colmap needs the views' cameras"):
        save_views(tmp_path / "out", scene.images[None], formats=["colmap"])
    with pytest.raises(MVCustomError, match="expected one per view"):
        save_views(tmp_path / "out", scene.images[None], scene.cameras[:2])
