import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from synthetic_capture import HEIGHT, WIDTH

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.subjects import ReferenceViews
from diffusers_mvcustom.subjects.reference_files import read_image


def assert_same(first: ReferenceViews, second: ReferenceViews) -> None:
    assert torch.equal(first.images, second.images)
    assert (first.masks is None) == (second.masks is None)
    assert first.masks is None or torch.equal(first.masks, second.masks)
    assert torch.equal(first.cameras.camera_to_world, second.cameras.camera_to_world)
    assert torch.equal(first.cameras.intrinsics, second.cameras.intrinsics)
    assert (first.height, first.width, first.names, first.captions) == (
        second.height,
        second.width,
        second.names,
        second.captions,
    )


def projected(cameras: Cameras, point: torch.Tensor) -> torch.Tensor:
    """Pixel positions of a world point in each camera, (N, 2)."""
    in_camera = (cameras.world_to_camera @ torch.cat([point, point.new_ones(1)]))[:, :3]
    pixels = (cameras.intrinsics @ in_camera[..., None])[..., 0]
    return pixels[:, :2] / pixels[:, 2:]


# --- a batch of views ---


def test_values_are_those_of_8_bits(cube_views):
    images = torch.rand(cube_views.images.shape, generator=torch.Generator().manual_seed(0))
    views = ReferenceViews(images, cube_views.cameras)
    assert torch.equal((views.images * 255).round() / 255, views.images)
    assert (views.images - images).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(12, 3, WIDTH, HEIGHT)}, r"images: expected shape \(12, 3, 48, 64\)"),
        ({"images": torch.full((12, 3, HEIGHT, WIDTH), 200.0)}, r"images: expected values in \[0, 1\]"),
        ({"images": torch.full((12, 3, HEIGHT, WIDTH), torch.nan)}, r"images: expected values in \[0, 1\]"),
        ({"masks": torch.zeros(12, HEIGHT, WIDTH)}, r"masks: expected shape \(12, 1, 48, 64\)"),
        ({"names": ["one"]}, "names: expected 12 texts"),
        ({"captions": ["one"]}, "captions: expected 12 texts"),
    ],
)
def test_what_does_not_fit_is_named(cube_views, change, message):
    arguments = {"images": cube_views.images, "cameras": cube_views.cameras, "masks": cube_views.masks, **change}
    with pytest.raises(MVCustomError, match=message):
        ReferenceViews(**arguments)


def test_indexing_keeps_everything_together(cube_views):
    part = cube_views[[5, 2]]
    assert len(part) == 2
    assert torch.equal(part.images, cube_views.images[[5, 2]])
    assert torch.equal(part.masks, cube_views.masks[[5, 2]])
    assert part.cameras.allclose(cube_views.cameras[[5, 2]])
    assert part.captions == ("a cube, view 5", "a cube, view 2")
    assert_same(cube_views[-1], cube_views[11:])


def test_selected_views_lie_around_the_subject(cube_views):
    names = [int(name.split()[-1]) for name in cube_views.select(4).names]
    assert names == sorted(names)
    steps = [(b - a) % 12 for a, b in zip(names, [*names[1:], names[0]])]  # views are 30 degrees apart
    assert min(steps) >= 2
    assert_same(cube_views.select(4), cube_views.select(4))


@pytest.mark.parametrize("count", [1, 3, 11])
def test_selected_views_are_distinct_even_where_directions_are_not(cube_views, count):
    doubled = replace(cube_views[[*range(6), *range(6)]], names=cube_views.names)
    for views in (cube_views, doubled):
        assert len(set(views.select(count).names)) == count


def test_selection_of_at_least_all_is_all(cube_views):
    assert cube_views.select(12) is cube_views
    assert cube_views.select(50) is cube_views
    with pytest.raises(MVCustomError, match="count: expected"):
        cube_views.select(0)


def test_a_camera_in_the_origin_can_be_selected(cube_views):
    poses = cube_views.cameras.camera_to_world.clone()
    poses[3, :3, 3] = 0
    views = ReferenceViews(cube_views.images, Cameras(poses, cube_views.cameras.intrinsics, HEIGHT, WIDTH))
    assert len(views.select(11)) == 11


# --- other sizes ---


@pytest.mark.parametrize(("height", "width"), [(96, 96), (24, 24), (48, 30), (17, 31), (100, 40)])
def test_covered_images_move_with_their_cameras(cube_views, height, width):
    """A bright spot stays at the projection of its world point."""
    point = torch.tensor([0.02, -0.01, 0.03])
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    spots = projected(cube_views.cameras, point)
    squared = (x - spots[:, 0, None, None]) ** 2 + (y - spots[:, 1, None, None]) ** 2
    masks = torch.exp(-squared / (2 * 2.5**2))[:, None]
    views = ReferenceViews(masks.expand(-1, 3, -1, -1), cube_views.cameras, masks)
    covered = views.cover(height, width)
    assert covered.images.shape == (12, 3, height, width)
    assert covered.masks.shape == (12, 1, height, width)
    assert covered.cameras.allclose(cube_views.cameras.cover(height, width))
    weights = covered.masks[:, 0] / covered.masks.sum(dim=(2, 3))[..., None]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    found = torch.stack([(weights * x).sum(dim=(1, 2)), (weights * y).sum(dim=(1, 2))], dim=-1)
    expected = projected(covered.cameras, point)
    margin = 3 * 2.5 * max(height / HEIGHT, width / WIDTH)  # three standard deviations of the spot
    inside = ((expected > margin) & (expected < torch.tensor([width, height]) - margin)).all(dim=1)
    assert inside.any()
    torch.testing.assert_close(found[inside], expected[inside], atol=0.15, rtol=0)


def test_resizing_scales_each_axis(cube_views):
    resized = cube_views.resize(24, 64)
    assert resized.images.shape == (12, 3, 24, 64)
    assert resized.cameras.allclose(cube_views.cameras.resize(24, 64))
    assert_same(cube_views.resize(HEIGHT, WIDTH), cube_views)


def test_fine_patterns_average_out_when_made_smaller(cube_views):
    lines = (torch.arange(WIDTH) % 4 == 0).float().expand(12, 3, HEIGHT, WIDTH)
    small = ReferenceViews(lines, cube_views.cameras).resize(HEIGHT // 4, WIDTH // 4).images
    assert (small[..., 1:-1] - 1 / 4).abs().max() < 0.1


@pytest.mark.parametrize("area", [64 * 64, 512 * 512, 10])
def test_fitting_an_area_keeps_the_aspect_ratio(cube_views, area):
    fitted = cube_views.fit_area(area, 16)
    assert fitted.height % 16 == 0
    assert fitted.width % 16 == 0
    if area > 16**2 * 4:
        assert 0.8 < fitted.height * fitted.width / area < 1.25
        assert 0.7 < (fitted.width / fitted.height) / (WIDTH / HEIGHT) < 1.4


# --- files ---


@pytest.mark.parametrize("with_masks", [True, False])
def test_saved_views_come_back_exactly(cube_views, tmp_path, with_masks):
    views = cube_views if with_masks else ReferenceViews(cube_views.images, cube_views.cameras)
    views = views.cover(40, 40)  # values that resampling made
    views.save(tmp_path)
    assert_same(ReferenceViews.load(tmp_path), views)
    assert (tmp_path / "masks").exists() == with_masks


@pytest.fixture
def saved(cube_views, tmp_path):
    cube_views[:3].save(tmp_path)

    def edit(change):
        file = tmp_path / "transforms.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return tmp_path, edit


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "images/../../secret.png", "images\\..\\secret.png", "C:/secret.png", ""]
)
@pytest.mark.parametrize("key", ["file_path", "mask_path"])
def test_paths_that_leave_the_folder_are_refused(saved, path, key):
    folder, edit = saved
    edit(lambda content: content["frames"][1].update({key: path}))
    with pytest.raises(MVCustomError, match=r"transforms\.json.*inside the folder"):
        ReferenceViews.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("frames"), "list of frames"),
        (lambda c: c["frames"].clear(), "list of frames"),
        (lambda c: c.update(camera_model="OPENCV"), "PINHOLE"),
        (lambda c: c["frames"][2].pop("fl_x"), r"frames\[2\].*fl_x.*missing"),
        (lambda c: c["frames"][2].update(fl_x="70"), r"frames\[2\]\.fl_x: expected a number, got '70'"),
        (lambda c: c["frames"][2].update(k1=0.1), r"frames\[2\]: unknown keys \['k1'\]"),
        (lambda c: c["frames"][1].pop("mask_path"), "mask_path in all frames or in none"),
        (lambda c: c["frames"][1].update(w=65), "one image size"),
        (lambda c: c["frames"][1].update(h=48.5), r"frames\[1\]\.h: expected a whole number"),
        (lambda c: c["frames"][1]["transform_matrix"].pop(), r"frames\[1\]\.transform_matrix: expected 4 × 4"),
        (lambda c: c["frames"][1]["transform_matrix"][0].__setitem__(0, 5.0), "camera_to_world"),
        (lambda c: c["frames"][1].update(file_path="images/none.png"), r"none\.png: there is no such image"),
    ],
)
def test_malformed_files_are_named_with_the_place(saved, change, message):
    folder, edit = saved
    edit(change)
    with pytest.raises(MVCustomError, match=message) as error:
        ReferenceViews.load(folder)
    assert str(folder) in str(error.value)


def test_missing_and_truncated_files_are_named(saved):
    folder, _ = saved
    image = folder / "images" / "001.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(MVCustomError, match=r"001\.png: expected an image"):
        ReferenceViews.load(folder)
    (folder / "transforms.json").write_text('{"frames": [')
    with pytest.raises(MVCustomError, match=r"transforms\.json: expected JSON"):
        ReferenceViews.load(folder)
    (folder / "transforms.json").unlink()
    with pytest.raises(MVCustomError, match=r"transforms\.json: there is no such file"):
        ReferenceViews.load(folder)


def test_a_mask_of_another_size_is_named_with_both_sizes(saved):
    folder, _ = saved
    Image.new("L", (10, 20)).save(folder / "masks" / "002.png")
    with pytest.raises(MVCustomError, match=r"002\.png: expected 48 × 64 pixels .* got 20 × 10"):
        ReferenceViews.load(folder)


# --- EXIF orientation ---


@pytest.fixture
def rotated_photo(tmp_path):
    """A 6×4 photo (stored), marked to be displayed turned by 90 degrees; its stored top left pixel is white."""

    def write(orientation: int, size: tuple[int, int] = (6, 4)):
        image = Image.new("RGB", size)
        image.putpixel((0, 0), (255, 255, 255))
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / "photo.png"
        image.save(file, exif=exif)
        return file

    return write


def test_the_orientation_follows_from_the_camera_size(rotated_photo):
    file = rotated_photo(6)  # displayed, stored left is top: the white pixel goes to the top right
    stored, displayed = read_image(file, "RGB", (4, 6)), read_image(file, "RGB", (6, 4))
    assert stored[:, 0, 0].tolist() == [1, 1, 1]
    assert displayed[:, 0, 3].tolist() == [1, 1, 1]
    assert stored.sum() == displayed.sum() == 3


@pytest.mark.parametrize(("orientation", "size"), [(3, (6, 4)), (6, (4, 4))])
def test_an_ambiguous_orientation_is_refused(rotated_photo, orientation, size):
    with pytest.raises(MVCustomError, match="EXIF orientation"):
        read_image(rotated_photo(orientation, size), "RGB", size[::-1])


def test_an_upright_photo_of_another_size_is_refused(rotated_photo):
    with pytest.raises(MVCustomError, match="expected 5 × 5 pixels"):
        read_image(rotated_photo(1), "RGB", (5, 5))
