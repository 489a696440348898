"""Photos found, read upright, and refused; frames of a video."""

import math
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image

from diffusers_mvcustom.data.photos import exif_focal, find_photos, open_photo, read_photos
from diffusers_mvcustom.data.video import sharpest_frames
from diffusers_mvcustom.errors import MVCustomError


def picture(seed: int, height: int = 24, width: int = 36) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2, 10, 9):
        picture(number).save(folder / f"IMG_{number}.png")
    return folder


def test_photos_come_in_natural_order_and_nothing_else_does(folder):
    (folder / "notes.txt").write_text("no photo")
    (folder / "._IMG_1.png").write_bytes(b"what some systems leave beside files")
    (folder / "more").mkdir()
    picture(5).save(folder / "more" / "5.png")
    assert [file.name for file in find_photos(folder)] == ["IMG_1.png", "IMG_2.png", "IMG_9.png", "IMG_10.png"]


def test_a_folder_without_photos_names_the_one_inside(tmp_path, folder):
    with pytest.raises(MVCustomError, match=r"found none\. Is it .*photos that you mean"):
        find_photos(tmp_path)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".tiff", ".heic"])
def test_every_format_is_read(folder, suffix):
    if suffix == ".heic":
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(Image.new("RGB", (36, 24), (200, 30, 60))).save(folder / f"red{suffix}", quality=90)
    else:
        Image.new("RGB", (36, 24), (200, 30, 60)).save(folder / f"red{suffix}")
    photo = next(photo for photo in read_photos(folder, find_photos(folder)) if photo.path.stem == "red")
    assert (photo.width, photo.height) == (36, 24)
    assert np.abs(np.asarray(open_photo(photo.path)).astype(int) - [200, 30, 60]).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".heic"])
def test_exif_orientation_is_honoured(folder, orientation, suffix):
    upright = np.zeros((24, 36, 3), dtype=np.uint8)
    upright[:12, :18], upright[12:, 18:] = (255, 0, 0), (0, 0, 255)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition whose inverse the tag asks for
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if suffix == ".heic":
        heif = pytest.importorskip("pillow_heif")
        heif.from_pillow(stored).save(folder / "turned.heic", quality=-1, exif=exif.tobytes())
    else:
        stored.save(folder / f"turned{suffix}", exif=exif)
    photo = next(photo for photo in read_photos(folder, find_photos(folder)) if photo.path.stem == "turned")
    assert (photo.width, photo.height) == (36, 24)
    shown = np.asarray(open_photo(photo.path)).astype(int)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).mean() < 3  # HEIC halves the colours' resolution


def test_focal_length_by_exif():
    exif = Image.Exif()
    detail = exif.get_ifd(ExifTags.IFD.Exif)
    assert exif_focal(exif, 4000, 3000) is None
    detail[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    assert exif_focal(exif, 4000, 3000) == pytest.approx(26 / math.hypot(36, 24) * 5000)
    detail[ExifTags.Base.FocalLengthIn35mmFilm] = 0  # what cameras write that do not know
    detail |= {
        ExifTags.Base.FocalLength: 4.2,
        ExifTags.Base.FocalPlaneXResolution: 7000.0,
        ExifTags.Base.FocalPlaneResolutionUnit: 3,  # centimetres
        ExifTags.Base.ExifImageWidth: 4000,
    }
    assert exif_focal(exif, 4000, 3000) == pytest.approx(4.2 * 7000 / 10)
    assert exif_focal(exif, 1000, 750) is None  # the sensor's resolution, not this photo's


def test_photos_of_one_camera_are_told_from_those_of_another(folder):
    for name, model, focal in (("a", "One", 26), ("b", "One", 26), ("c", "One", 77), ("d", "Two", 26)):
        exif = Image.Exif()
        exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Maker", model
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal
        picture(ord(name)).save(folder / f"{name}.jpg", exif=exif)
    photos = {photo.path.stem: photo for photo in read_photos(folder, find_photos(folder))}
    assert photos["a"].camera == photos["b"].camera
    assert len({photos[name].camera for name in ("a", "c", "d", "IMG_1")}) == 4
    assert photos["a"].focal == pytest.approx(26 / math.hypot(36, 24) * math.hypot(36, 24))


def test_too_few_unreadable_duplicate_and_too_many_photos(folder):
    files = find_photos(folder)
    with pytest.raises(MVCustomError, match="expected at least 3 photos"):
        read_photos(folder, files[:2])
    (folder / "IMG_3.png").write_bytes(files[0].read_bytes()[:-200])
    (folder / "IMG_4.jpg").write_bytes(b"no image")
    with pytest.raises(MVCustomError, match=r"2 of 6 photos cannot be read: IMG_3\.png .*IMG_4\.jpg"):
        read_photos(folder, find_photos(folder))
    (folder / "IMG_4.jpg").unlink()
    shutil.copy(files[1], folder / "IMG_3.png")
    with pytest.raises(MVCustomError, match=r"IMG_2\.png = IMG_3\.png"):
        read_photos(folder, find_photos(folder))
    (folder / "IMG_3.png").unlink()
    for number in range(11, 108):
        picture(number, 4, 6).save(folder / f"IMG_{number}.png")
    with pytest.warns(UserWarning, match="101 photos"):
        read_photos(folder, find_photos(folder))


def test_the_sharpest_frames_of_a_video_are_taken_spread_over_its_time(tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    detailed = np.asarray(picture(0, 30, 40).resize((160, 112), Image.Resampling.NEAREST))
    blurred = np.asarray(Image.fromarray(detailed).resize((10, 7)).resize((160, 112)))
    sharp = (3, 8, 12, 19)  # one in each stretch of five
    frames = np.stack([np.roll(detailed if i in sharp else blurred, i, axis=1) for i in range(20)])
    imageio.imwrite(tmp_path / "walk.mp4", frames, plugin="FFMPEG", fps=10, quality=9)
    files = sharpest_frames(tmp_path / "walk.mp4", tmp_path, 4)
    assert [file.name for file in files] == [f"frame_{number:06d}.png" for number in sharp]
    assert Image.open(files[0]).size == (160, 112)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(MVCustomError, match=r"broken\.mp4: expected a video"):
        sharpest_frames(tmp_path / "broken.mp4", tmp_path, 4)
