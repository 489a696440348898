"""From photos or a posed capture to a prepared folder; what is refused, and that nothing is ever lost."""

import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from textured_scene import FOCAL_SHARE, pose_errors, render, ring

from diffusers_mvcustom.cameras import cameras_to_pytorch3d, load_capture, normalize_cameras, save_cameras
from diffusers_mvcustom.cli import main
from diffusers_mvcustom.data import load_subject_dataset, prepare_subject
from diffusers_mvcustom.data.captions import read_captions
from diffusers_mvcustom.data.photos import open_photo
from diffusers_mvcustom.data.structure_from_motion import find_cameras
from diffusers_mvcustom.data.video import sharpest_frames
from diffusers_mvcustom.errors import MVCustomError

NUM_PHOTOS = 20
POSES = ring(24)[:NUM_PHOTOS]
K1 = -0.06


def digest(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of all files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files}


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "diffusers_mvcustom.cli", "prepare", *map(str, arguments)]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Renders at 512 × 384 through a lens with distortion, every third stored turned with an EXIF orientation."""
    folder = tmp_path_factory.mktemp("renders") / "photos"
    folder.mkdir()
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for i, pose in enumerate(POSES):
        image, exif = Image.fromarray(render(pose, 384, 512, K1)), Image.Exif()
        if i % 3 == 0:
            orientation = (3, 6, 8)[i // 3 % 3]
            image, exif[ExifTags.Base.Orientation] = image.transpose(turned[orientation]), orientation
        image.save(folder / f"IMG_{i + 1}.jpg", quality=93, exif=exif)
    (folder / "IMG_2.txt").write_text("on a table")
    return folder


@pytest.fixture(scope="module")
def prepared(photos):
    """The result of preparing `photos`, its lines of progress, and the photos' digests before."""
    before, lines = digest(photos), []
    done = prepare_subject(
        photos,
        photos.parent / "subject",
        class_noun="block",
        token="<my-block>",
        caption="a {token} {noun}",
        report=lines.append,
    )
    return done, lines, before


def test_renders_come_back_with_their_cameras(prepared):
    done, lines, _ = prepared
    assert done.registered >= 0.95 * NUM_PHOTOS
    assert done.reprojection_error < 1
    assert any(f"{done.registered} of {NUM_PHOTOS} placed" in line for line in lines)
    dataset = load_subject_dataset(done.folder)
    numbers = [int(name.removeprefix("IMG_").removesuffix(".jpg")) - 1 for name in dataset.views.names]
    assert numbers == sorted(numbers)  # 2 before 10
    rotations, directions = pose_errors(dataset.views.cameras.camera_to_world.double().numpy(), POSES[numbers])
    assert (rotations <= 15).mean() == 1  # RRA@15
    assert (directions <= 15).mean() == 1  # RTA@15
    assert max(rotations.max(), directions.max()) < 1
    focal = dataset.views.cameras.focal
    assert torch.allclose(focal, torch.tensor(FOCAL_SHARE * 512).expand_as(focal), rtol=0.03)
    assert dataset.views.cameras.centers.norm(dim=-1).max().item() == pytest.approx(1, abs=1e-4)


def test_prepared_photos_are_upright_and_without_the_lens(prepared):
    done, _, _ = prepared
    views = load_subject_dataset(done.folder).views
    for name, image, matrix in list(zip(views.names, views.images, views.cameras.intrinsics))[::3]:  # the turned ones
        number = int(name.removeprefix("IMG_").removesuffix(".jpg")) - 1
        direct = render(POSES[number], views.height, views.width, intrinsics=matrix.numpy())
        with_lens = render(POSES[number], views.height, views.width, K1, intrinsics=matrix.numpy())
        shown = image.permute(1, 2, 0).numpy() * 255
        assert np.abs(shown - direct).mean() < 0.6 * np.abs(shown - with_lens).mean()


def test_the_prepared_folder_says_what_it_is(prepared):
    done, _, _ = prepared
    dataset = load_subject_dataset(done.folder)
    assert (dataset.class_noun, dataset.token) == ("block", "<my-block>")
    captions = dict(zip(dataset.views.names, dataset.views.captions))
    assert captions["IMG_1.jpg"] == "a {token} {noun}"
    assert captions["IMG_2.jpg"] == "a {token} {noun}, on a table"
    assert f"{done.registered} of {NUM_PHOTOS} photos" in str(done)
    assert "mean reprojection error 0." in str(done)


def test_nothing_of_the_users_is_changed_and_running_again_does_nothing(photos, prepared):
    done, _, before = prepared
    assert digest(photos) == before
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos", "subject"]
    after = digest(done.folder)
    settings = {"class_noun": "block", "token": "<my-block>", "caption": "a {token} {noun}"}
    again = prepare_subject(photos, done.folder, **settings)
    assert again.up_to_date
    assert "nothing done" in str(again)
    assert again.registered == done.registered
    with pytest.raises(
        MVCustomError, match="prepared from other photos or with other settings; replace it with --overw"
    ):
        prepare_subject(photos, done.folder, class_noun="brick")
    assert digest(done.folder) == after


@pytest.fixture
def capture(cube_capture, tmp_path):
    return shutil.copytree(cube_capture, tmp_path / "capture")


@pytest.mark.parametrize("format", ["transforms_json", "colmap", "polycam", "co3d"])
def test_posed_captures_keep_their_cameras(capture, tmp_path, format):
    given = load_capture(capture).cameras
    if format == "colmap":
        save_cameras(capture / "sparse" / "0", given, names=[f"{i:02d}.png" for i in range(len(given))])
        (capture / "transforms.json").unlink()
    elif format == "polycam":
        (capture / "cameras").mkdir()
        for i, (pose, matrix) in enumerate(zip(given.camera_to_world.double(), given.intrinsics.double())):
            rows = (pose @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())).tolist()
            frame = {f"t_{row}{column}": rows[row][column] for row in range(3) for column in range(4)}
            frame |= {"fx": matrix[0, 0].item(), "fy": matrix[1, 1].item(), "cx": matrix[0, 2].item()}
            frame |= {"cy": matrix[1, 2].item(), "width": given.width, "height": given.height}
            (capture / "cameras" / f"{i:02d}.json").write_text(json.dumps(frame))
        (capture / "transforms.json").unlink()
    source, sequence = capture, None
    if format == "co3d":
        source, sequence = capture / "cube" / "frame_annotations.jgz", "2_2_2"
        values = zip(*(value.tolist() for value in cameras_to_pytorch3d(given, intrinsics_in="ndc_isotropic")))
        names = ("R", "T", "focal_length", "principal_point", "intrinsics_format")
        frames = [
            {
                "sequence_name": "2_2_2",
                "image": {"path": f"images/{i:02d}.png", "size": [given.height, given.width]},
                "viewpoint": dict(zip(names, (*view, "ndc_isotropic"))),
            }
            for i, view in enumerate(values)
        ]
        source.parent.mkdir()
        other = {**frames[0], "sequence_name": "1_1_1"}
        source.write_bytes(gzip.compress(json.dumps([*frames, other]).encode()))
        (capture / "transforms.json").unlink()
    before = digest(capture)
    settings = {"max_size": 64, "masks": capture / "masks", "up": (0, 1, 0), "sequence": sequence}
    done = prepare_subject(source, tmp_path / "out", **settings)
    assert digest(capture) == before
    assert (done.registered, done.photos, done.left_out, done.reprojection_error) == (12, 12, (), None)
    dataset = load_subject_dataset(done.folder, masks="required")
    expected, frame = normalize_cameras(given, up=(0, 1, 0))
    assert dataset.views.cameras.allclose(expected, atol=1e-4)
    assert dataset.subject_frame.scale == pytest.approx(frame.scale, abs=1e-4)
    assert prepare_subject(source, tmp_path / "out", **settings).up_to_date


def test_the_command_has_help_and_ends_with_a_summary(capture, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "--help"])
    assert ended.value.code == 0
    assert "mvcustom prepare walk.mp4" in " ".join(capsys.readouterr().out.split())
    arguments = ["prepare", str(capture), "-o", str(tmp_path / "out"), "--class-noun", "cube", "--max-size", "64"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--caption", "a {token} {noun}"])
    assert ended.value.code == 0
    assert "12 of 12 photos, 64 × 48, cameras given, masks, captions → " in capsys.readouterr().out
    assert set(load_subject_dataset(tmp_path / "out").views.captions) == {"a {token} {noun}"}
    with pytest.raises(SystemExit) as ended:
        main(arguments)  # without the caption it would be another folder
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("mvcustom: output: ")


def test_a_prepared_folder_is_only_replaced_when_asked_and_never_with_the_users_changes(capture, tmp_path):
    out = tmp_path / "out"
    prepare_subject(capture, out)
    with pytest.raises(MVCustomError, match="--overwrite"):
        prepare_subject(capture, out, class_noun="cube")
    assert prepare_subject(capture, out, class_noun="cube", overwrite=True).up_to_date is False
    assert load_subject_dataset(out).class_noun == "cube"
    Image.new("L", (64, 48), 255).save(out / "masks" / "003.png")  # retouched by the user
    (out / "notes.txt").write_text("mine")
    before = digest(out)
    with pytest.raises(MVCustomError, match=r"changed or added since it was prepared: masks/003\.png, notes\.txt"):
        prepare_subject(capture, out, class_noun="box", overwrite=True)
    assert digest(out) == before
    assert prepare_subject(capture, out, class_noun="cube").up_to_date
    (out / "images" / "005.png").unlink()
    with pytest.raises(MVCustomError, match="replace it with --overwrite"):  # it is not what it was
        prepare_subject(capture, out, class_noun="cube")


def test_folders_that_are_not_ours_are_never_written_to(capture, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(MVCustomError, match="was not made by"):
            prepare_subject(capture, theirs, overwrite=overwrite)
        for place in (capture, tmp_path):
            with pytest.raises(MVCustomError, match="expected a folder of its own"):
                prepare_subject(capture, place, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    assert prepare_subject(capture, tmp_path / "empty").registered == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_size": 10}, "max_size: expected a whole number of at least 64"),
        ({"frames": True}, "frames: expected"),
        ({"token": "my mug"}, "token: expected one word"),
        ({"caption": "a mug"}, r"caption: expected a text with \{token\}"),
        ({"masks": "nowhere"}, "masks: expected auto, required, none, rembg or a folder"),
    ],
)
def test_settings_that_cannot_be_used(capture, tmp_path, settings, message):
    with pytest.raises(MVCustomError, match=message):
        prepare_subject(capture, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_captions_name_the_subject(tmp_path):
    files = [tmp_path / f"{name}.jpg" for name in "abcd"]
    assert read_captions(files, None, None) is None
    for name, text in (("a", "side view,\nsoft light"), ("b", "a <my-mug> on grass"), ("c", "the {token} {noun}")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert read_captions(files, None, "<my-mug>") == [
        "a photo of a {token} {noun}, side view, soft light",
        "a {token} on grass",
        "the {token} {noun}",
        "a photo of a {token} {noun}",
    ]
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MVCustomError, match=r"d\.txt: expected a photo's caption"):
        read_captions(files, None, None)


def write_wall(folder: Path, noise: float) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        y, x = np.mgrid[:240, :320]
        wall = 190 + 8 * np.sin((x + 20 * i) / 200) + 10 * y / 240 + random.normal(0, noise, (240, 320))
        pixels = np.repeat(wall[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def test_a_blank_wall_fails_with_advice_and_overwrites_nothing(capture, tmp_path):
    prepare_subject(capture, tmp_path / "out")
    before = digest(tmp_path / "out")
    process = run(write_wall(tmp_path / "wall", 2.0), "-o", tmp_path / "out", "--overwrite")
    assert process.returncode == 1
    assert "of 12 photos could be placed, at least half are needed" in process.stderr
    assert "put the subject on something patterned" in process.stderr
    assert "Traceback" not in process.stderr
    assert digest(tmp_path / "out") == before
    assert not list(tmp_path.glob(".out*"))


def test_ctrl_c_leaves_nothing_behind(photos, tmp_path):
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command(photos, "-o", tmp_path / "out"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    assert "looking for cameras" in process.stdout.readline()
    folder = next((tmp_path / "tmp").glob("mvcustom-sfm-*"))
    while not list(folder.glob("run-*/log.txt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "Traceback" not in errors
    assert not list((tmp_path / "tmp").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(folder).encode() not in command_line.read_bytes()
        except OSError:  # ended meanwhile
            continue


def test_a_full_disk_leaves_what_was_there(capture, tmp_path):
    """Files may not grow beyond 4 KiB: images can be written, the manifest cannot."""
    prepare_subject(capture, tmp_path / "out")
    before = digest(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    try:
        with pytest.raises(MVCustomError, match=r"could not be written: .* Nothing was changed"):
            prepare_subject(capture, tmp_path / "out", class_noun="cube", overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert digest(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("pillow_heif", "heic", lambda: open_photo(Path("a.heic"))),
        ("imageio_ffmpeg", "video", lambda: sharpest_frames(Path("a.mp4"), Path("."), 3)),
        ("pycolmap", "colmap", lambda: find_cameras(Path("photos"), [])),
        ("rembg", "masks", lambda: prepare_subject("photos", "out", masks="rembg")),
    ],
)
def test_missing_packages_are_named_with_their_extra(monkeypatch, package, extra, call):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(package), *sys.meta_path])
    with pytest.raises(MVCustomError, match=rf"pip install 'diffusers-mvcustom\[{extra}\]'"):
        call()


def test_a_background_removal_without_its_model_is_told_before_cameras_are_looked_for(monkeypatch, tmp_path):
    """A rembg that cannot fetch its model, as without a network; the photos could not be placed either."""
    package = tmp_path / "packages" / "rembg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("def new_session():\n    raise ConnectionError('no route to host')\n")
    monkeypatch.delitem(sys.modules, "rembg", raising=False)
    monkeypatch.syspath_prepend(str(package.parent))
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (64, 48), (60 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    with pytest.raises(
        MVCustomError, match=r"rembg cannot load its model: no route to host\. .* give a folder of masks"
    ):
        prepare_subject(tmp_path / "photos", tmp_path / "out", masks="rembg")
    assert not (tmp_path / "out").exists()
    sys.modules.pop("rembg", None)


class _Without:
    """An importer to whom one package is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(name)


@pytest.mark.slow
def test_noise_is_no_texture(tmp_path):
    """A grainy wall has thousands of features, and loosely matched ones do fit cameras by chance."""
    with pytest.raises(MVCustomError, match="of 12 photos could be placed, at least half are needed"):
        prepare_subject(write_wall(tmp_path / "wall", 25.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_buddha_without_its_poses(buddha, tmp_path):
    """13 wide-baseline photos: whatever is said to be found is right, and at least half is."""
    shutil.copytree(buddha / "images", tmp_path / "photos")
    with pytest.warns(UserWarning, match="could not be placed and are left out"):
        done = prepare_subject(tmp_path / "photos", tmp_path / "out")
    assert done.photos == 13
    assert done.registered >= 7
    views = load_subject_dataset(done.folder).views
    known = load_capture(buddha)
    number = {Path(name).name: i for i, name in enumerate(known.names)}
    poses = known.cameras.camera_to_world.double().numpy()[[number[name] for name in views.names]]
    rotations, directions = pose_errors(views.cameras.camera_to_world.double().numpy(), poses)
    assert (rotations <= 15).mean() == 1
    assert (directions <= 15).mean() == 1
