"""Clips by number: the right frames, crops and texts, in an order that can be entered anywhere."""

import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from training.video_files import numbered_frames, numbers_of, write_video

from diffusers_mvcustom.cameras import Cameras
from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training.clip_geometry import GEOMETRY_SUFFIX, ClipGeometry
from diffusers_mvcustom.training.video_clips import ClipLoader, ClipNumbers, ClipSettings, VideoClips
from diffusers_mvcustom.training.video_decoding import UnreadableVideo, VideoReader
from diffusers_mvcustom.training.video_sources import find_videos

SETTINGS = ClipSettings(num_frames=4, frame_stride=2, height=16, width=16)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five videos of 30 frames, a format each, and one as frames."""
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(30)
    for kind in ("mp4", "webm", "gif", "mkv"):
        write_video(folder / f"{kind}.{kind}", frames)
    (folder / "frames").mkdir()
    for n, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / "frames" / f"{n}.png")
    (folder / "mp4.txt").write_text("a grey thing")
    return folder


@pytest.fixture(scope="module")
def sources(videos):
    return find_videos(str(videos))


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "mkv", "frames"])
@pytest.mark.parametrize("wanted", [[0], [0, 1, 2], [7, 12, 17], [25, 29]])
def test_the_frames_asked_for_are_read(sources, kind, wanted):
    source = next(source for source in sources if source.name.startswith(kind))
    lengths = []
    frames = VideoReader().read(source, lambda length: lengths.append(length) or wanted)
    assert lengths == [30]
    assert frames.shape == (len(wanted), 32, 48, 3)
    # Codecs are lossy, and neighbouring frames differ by 5 grey levels.
    error = np.abs(frames.astype(int) - numbered_frames(30)[wanted].astype(int))
    assert np.median(error) <= (20 if kind == "gif" else 2)
    if kind != "gif":  # 256 fixed colours
        assert numbers_of(torch.from_numpy(frames).permute(0, 3, 1, 2)) == wanted


def test_a_shard_gives_what_its_files_give(videos, sources, tmp_path):
    with tarfile.open(tmp_path / "clips.tar", "w") as archive:
        for path in sorted(videos.iterdir()):
            if path.is_file():
                archive.add(path, path.name)
    in_shard = VideoClips(find_videos(str(tmp_path)), SETTINGS)
    in_folder = VideoClips([source for source in sources if not source.is_frames], SETTINGS)
    for number in range(6):
        ours, theirs = in_shard[number], in_folder[number]
        assert ours.source == f"clips.tar/{theirs.source}"
        assert ours.text == theirs.text
        assert torch.equal(ours.frames, theirs.frames)


def test_a_rotated_video_stands_upright(tmp_path):
    import av

    frames = numbered_frames(3, height=32, width=48)
    path = write_video(tmp_path / "a.mp4", frames)
    content = bytearray(path.read_bytes())
    # The track header's matrix, 16.16 fixed point and the last row 2.30: a quarter turn clockwise.
    identity, turned = (
        [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30],
        [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30],
    )
    as_bytes = [b"".join(n.to_bytes(4, "big", signed=True) for n in matrix) for matrix in (identity, turned)]
    place = content.index(as_bytes[0], content.index(b"tkhd"))
    content[place : place + 36] = as_bytes[1]
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90
    upright = VideoReader().read(find_videos(str(tmp_path))[0], lambda length: [0])[0]
    assert upright.shape == (48, 32, 3)
    assert np.abs(upright.astype(int) - np.rot90(frames[0], -1).astype(int)).max() <= 8


def test_clips_keep_stride_and_length(sources):
    clips = VideoClips([source for source in sources if source.name in ("mp4.mp4", "frames")], SETTINGS)
    starts = set()
    for number in range(40):
        sample = clips[number]
        assert sample.frames.shape == (4, 3, 16, 16)
        assert sample.frames.dtype == torch.uint8
        numbers = numbers_of(sample.frames)
        assert np.diff(numbers).tolist() == [2, 2, 2]
        starts.add(numbers[0])
        assert sample.text == ("a grey thing" if sample.source == "mp4.mp4" else "")
    assert min(starts) <= 3
    assert max(starts) >= 20
    assert max(starts) <= 29 - 3 * 2


def test_a_short_video_has_a_smaller_stride(tmp_path):
    write_video(tmp_path / "a.mkv", numbered_frames(11))
    sources = find_videos(str(tmp_path))
    assert numbers_of(VideoClips(sources, replace(SETTINGS, frame_stride=9))[0].frames)[::3] in ([0, 9], [1, 10])
    whole = VideoClips(sources, replace(SETTINGS, num_frames=11, frame_stride=9))[0]
    assert numbers_of(whole.frames) == list(range(11))
    with pytest.raises(UnreadableVideo, match=r"32 videos in a row .* a\.mkv: it has 11 frames, a clip has 12"):
        VideoClips(sources, replace(SETTINGS, num_frames=12))[0]


def test_every_video_once_a_round_in_another_order_each_time(sources):
    clips = VideoClips(sources, SETTINGS)
    rounds = [[clips.source_index(5 * n + place) for place in range(5)] for n in range(8)]
    assert all(sorted(order) == list(range(5)) for order in rounds)
    assert len(set(map(tuple, rounds))) > 1
    other = VideoClips(sources, replace(SETTINGS, seed=1))
    assert rounds != [[other.source_index(5 * n + place) for place in range(5)] for n in range(8)]


def test_crops(tmp_path):
    """Coordinates painted into the frame come back at the crop's place."""
    rows, columns = np.mgrid[0:40, 0:60]
    pixels = np.stack([4 * rows, 4 * columns, 0 * rows], axis=-1).astype(np.uint8)
    (tmp_path / "clip").mkdir()
    for n in range(2):
        Image.fromarray(pixels).save(tmp_path / "clip" / f"{n}.png")
    sources = find_videos(str(tmp_path))
    settings = ClipSettings(num_frames=2, frame_stride=1, height=20, width=20)
    middle = VideoClips(sources, replace(settings, random_crop=False, min_crop=0.5))[0].frames[0].float() / 4
    # The middle 40 × 40, two pixels to one.
    assert middle[0, :, 0].tolist() == pytest.approx([2 * n + 0.5 for n in range(20)], abs=0.5)
    assert middle[1, 0].tolist() == pytest.approx([10 + 2 * n + 0.5 for n in range(20)], abs=0.5)
    sizes, flips, lefts = set(), set(), set()
    for number in range(60):
        sample = VideoClips(sources, replace(settings, min_crop=0.5, horizontal_flip=0.5))[number]
        assert torch.equal(sample.frames[0], sample.frames[1])
        columns = sample.frames[0, 1].float().mean(0) / 4
        sizes.add(round((columns[-2] - columns[1]).abs().item() / 17 * 20))
        flips.add(bool(columns[-1] < columns[0]))
        lefts.add(round(columns.min().item()))
    assert min(sizes) <= 23
    assert max(sizes) >= 37
    assert flips == {False, True}
    assert min(lefts) <= 3
    assert max(lefts) >= 30


def test_images_and_texts_are_drawn_by_share(sources):
    settings = replace(SETTINGS, image_share=0.4, text_dropout=0.3, default_caption="grey")
    clips = VideoClips([source for source in sources if source.is_frames], settings)
    samples = [clips[number] for number in range(300)]
    images = np.mean([len(sample.frames) == 1 for sample in samples])
    dropped = np.mean([sample.text == "" for sample in samples])
    # Four standard deviations of a share of 300.
    assert abs(images - 0.4) < 4 * (0.4 * 0.6 / 300) ** 0.5
    assert abs(dropped - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5
    assert {sample.text for sample in samples} == {"", "grey"}


def test_what_cannot_be_read_is_named_and_replaced(videos, tmp_path):
    whole = (videos / "mp4.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.webm").write_text("no video at all")
    (tmp_path / "empty.gif").write_bytes(b"")
    write_video(tmp_path / "short.mkv", numbered_frames(3))
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "frames").mkdir()
    for n in range(5):
        Image.new("RGB", (8 + n, 8)).save(tmp_path / "frames" / f"{n}.png")
    sources = find_videos(str(tmp_path))
    samples = [VideoClips(sources, SETTINGS)[number] for number in range(18)]
    assert {sample.source for sample in samples} == {"good.mp4"}
    reasons = {text for sample in samples for text in sample.unreadable}
    by_name = {text.split(":")[0]: text for text in reasons}
    assert by_name.keys() == {"cut.mp4", "text.webm", "empty.gif", "short.mkv", "frames"}
    assert "it has 3 frames, a clip has 4" in by_name["short.mkv"]
    assert "different sizes" in by_name["frames"]
    assert "cannot be decoded" in by_name["text.webm"]
    refusing = VideoClips(sources, replace(SETTINGS, skip_unreadable=False))
    names = [source.name for source in sources]
    for number in range(6):
        name = names[refusing.source_index(number)]
        if name == "good.mp4":
            assert refusing[number].unreadable == ()
        else:
            with pytest.raises(UnreadableVideo, match=name):
                refusing[number]


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif", "mkv", "ts"])
def test_a_damaged_video_is_read_or_named(tmp_path, kind):
    """Whatever a decoder makes of damaged bytes, it does not end a training."""
    content = write_video(tmp_path / f"a.{kind}", numbered_frames(30)).read_bytes()
    random = np.random.default_rng(0)

    def first_and_middle(length):
        if length < 2:
            raise UnreadableVideo("too short")
        return [0, length // 2]

    outcomes = Counter()
    for _ in range(80):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[random.integers(len(damaged), size=random.integers(1, 40))] = random.integers(256)
        if random.random() < 0.5:
            damaged = damaged[: random.integers(1, len(damaged))]
        (tmp_path / f"a.{kind}").write_bytes(damaged.tobytes())
        try:
            frames = VideoReader().read(find_videos(str(tmp_path))[0], first_and_middle)
            assert frames.shape[0] == 2
            outcomes["read"] += 1
        except UnreadableVideo as error:
            outcomes[str(error).split(":")[0]] += 1
    assert outcomes.keys() == {"read", f"a.{kind}"}


def test_a_stream_that_appears_from_nowhere(tmp_path):
    """A damaged packet of a transport stream belongs to no stream; PyAV then looks up one that is not there."""
    path = write_video(tmp_path / "a.ts", numbered_frames(30))
    content = path.read_bytes()
    outcomes = Counter()
    for packet in range(len(content) * 3 // 4 // 188 * 188, len(content), 188):
        damaged = bytearray(content)
        damaged[packet + 2] = 16  # the low byte of the packet's stream number
        path.write_bytes(damaged)
        try:
            VideoReader().read(find_videos(str(tmp_path))[0], lambda length: [0])
            outcomes["read"] += 1
        except UnreadableVideo as error:
            outcomes[str(error)] += 1
    assert outcomes.pop("read") > 0
    assert outcomes.keys() <= {"a.ts: cannot be decoded (list index out of range)"}


def test_numbers_of_processes_are_those_of_one_with_the_whole_batch():
    def numbers(process, num_processes, size, accumulation=3):
        return list(
            ClipNumbers(2, 5, batch_size=size, accumulation=accumulation, process=process, num_processes=num_processes)
        )

    one = numbers(0, 1, 4)
    first, second = numbers(0, 2, 2), numbers(1, 2, 2)
    assert [a + b for a, b in zip(first, second)] == one
    assert [n for batch in one for n in batch] == list(range(2 * 12, 5 * 12))
    assert Counter(n for batch in numbers(0, 1, 12, 1) for n in batch) == Counter(n for batch in one for n in batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_enters_anywhere_and_workers_change_nothing(sources, workers):
    clips = VideoClips(sources, SETTINGS)
    expected = [clips[number] for number in range(4, 10)]
    before = torch.get_rng_state()
    loader = ClipLoader(
        VideoClips(sources, SETTINGS),
        ClipNumbers(2, 5, batch_size=2, accumulation=1, process=0, num_processes=1),
        workers,
    )
    batches = [next(loader) for _ in range(3)]
    loader.close()
    assert torch.equal(torch.get_rng_state(), before)
    for ours, theirs in zip([sample for batch in batches for sample in batch], expected, strict=True):
        assert (ours.number, ours.source, ours.text) == (theirs.number, theirs.source, theirs.text)
        assert torch.equal(ours.frames, theirs.frames)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_arrive_as_they_are(tmp_path, workers):
    (tmp_path / "a.mp4").write_text("no video")
    clips = VideoClips(find_videos(str(tmp_path)), replace(SETTINGS, skip_unreadable=False))
    loader = ClipLoader(clips, ClipNumbers(0, 1, batch_size=1, accumulation=1, process=0, num_processes=1), workers)
    with pytest.raises(MVCustomError, match=r"^a\.mp4: cannot be decoded \([^\n]*\)$"):
        next(loader)


def write_geometry(folder, count, height=12, width=16, name="walk"):
    """A wall one unit away that cameras move past, a pixel of the frames' 16 each."""
    cameras = Cameras.from_focal(torch.eye(4).repeat(count, 1, 1), 16.0, height=height, width=width)
    cameras.camera_to_world[:, 0, 3] = torch.arange(count) / 16
    ClipGeometry(torch.ones(count, height, width), cameras).save(folder / f"{name}{GEOMETRY_SUFFIX}")


def put_walk(folder, count=6):
    for n in range(count):
        (folder / "walk").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 12), (40 * n, 0, 0)).save(folder / "walk" / f"{n}.png")
    return folder


def test_geometry_is_that_of_the_clip_s_frames_and_crop(tmp_path):
    write_geometry(put_walk(tmp_path), 6)
    settings = {"num_frames": 3, "frame_stride": 2, "height": 8, "width": 8, "min_crop": 0.7}
    clips = VideoClips(find_videos(str(tmp_path)), ClipSettings(**settings, geometry=True, horizontal_flip=0.5))
    mirrored = set()
    for number in range(8):
        sample = clips[number]
        first = int(sample.frames[0, 0, 4, 4]) // 40
        geometry = sample.geometry
        torch.testing.assert_close(geometry.cameras.centers[:, 0], torch.arange(first, first + 5, 2) / 16)
        # Of a square crop both fields of view are the same; its side is at most the frame's height.
        across, down = (geometry.cameras.focal[0] / torch.tensor([16, 12])).tolist()
        assert across == pytest.approx(down)
        assert 16 / 12 - 1e-5 <= across <= 16 / (0.7 * 12 - 0.5)
        mirrored.add(geometry.mirrored)
    assert mirrored == {False, True}
    assert VideoClips(find_videos(str(tmp_path)), ClipSettings(**settings))[0].geometry is None
    alone = VideoClips(find_videos(str(tmp_path)), ClipSettings(**settings, geometry=True, image_share=1.0))
    assert alone[0].geometry is None  # noise has nowhere to be carried to


@pytest.mark.parametrize("what", ["damaged", "short"])
def test_geometry_that_cannot_be_used_is_named(tmp_path, what):
    put_walk(tmp_path)
    if what == "short":
        write_geometry(tmp_path, 2)
    else:
        (tmp_path / f"walk{GEOMETRY_SUFFIX}").write_bytes(b"damaged")
    settings = ClipSettings(3, 2, 8, 8, geometry=True, skip_unreadable=False)
    with pytest.raises(UnreadableVideo, match=r"walk: its geometry: (expected a safetensors|it has 2 frames)"):
        VideoClips(find_videos(str(tmp_path)), settings)[0]
