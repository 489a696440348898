"""Where clips come from, and with which texts."""

import io
import json
import tarfile

import pytest
from PIL import Image

from diffusers_mvcustom.errors import MVCustomError
from diffusers_mvcustom.training.video_sources import find_videos


def put(path, content=b"video"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_frames(folder, count=3):
    folder.mkdir(parents=True)
    for n in range(count):
        Image.new("RGB", (8, 6), (n, n, n)).save(folder / f"{n}.png")


def put_shard(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def captions_of(sources, column=None):
    return {source.name: source.read_captions(column) for source in sources}


def test_a_folder_and_the_folders_in_it(tmp_path):
    put(tmp_path / "b.mp4")
    put(tmp_path / "a.WEBM")
    put(tmp_path / "deep" / "c.gif", b"12")
    put(tmp_path / "deep" / "notes.md")
    put(tmp_path / ".hidden.mp4")
    put_frames(tmp_path / "deep" / "walk", 11)
    sources = find_videos(str(tmp_path))
    assert [source.name for source in sources] == ["a.WEBM", "b.mp4", "deep/c.gif", "deep/walk"]
    assert [source.is_frames for source in sources] == [False, False, False, True]
    assert sources[2].size == len(b"12")
    # Frame 10 comes after frame 9, not after frame 1.
    assert [file.path.rsplit("/", 1)[-1] for file in sources[3].files] == [f"{n}.png" for n in range(11)]


def test_a_folder_of_frames_itself_and_a_single_image(tmp_path):
    put_frames(tmp_path / "clip")
    assert [source.name for source in find_videos(str(tmp_path / "clip"))] == ["clip"]
    put_frames(tmp_path / "one", 1)
    with pytest.raises(MVCustomError, match=r"no videos in .*one"):
        find_videos(str(tmp_path / "one"))


def test_captions_beside_videos(tmp_path):
    for name in ("a", "b", "c", "d", "e"):
        put(tmp_path / f"{name}.mp4")
    put(tmp_path / "a.txt", "  a red\n car ")
    put(tmp_path / "b.json", json.dumps({"fps": 8, "text": "a chair"}))
    put(tmp_path / "c.json", json.dumps(["a mug", "the mug"]))
    put(tmp_path / "d.caption", "a house")
    put_frames(tmp_path / "walk")
    put(tmp_path / "walk.txt", "a walk")
    assert captions_of(find_videos(str(tmp_path))) == {
        "a.mp4": ("a red car",),
        "b.mp4": ("a chair",),
        "c.mp4": ("a mug", "the mug"),
        "d.mp4": ("a house",),
        "e.mp4": (),
        "walk": ("a walk",),
    }


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_one_metadata_file(tmp_path, kind):
    for name in ("a", "b", "unnamed"):
        put(tmp_path / "train" / f"{name}.mp4")
    put_frames(tmp_path / "train" / "walk")
    rows = [("b.mp4", "a mug, blue"), ("a.mp4", "a car"), ("walk/", "")]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": name, "text": caption}) + "\n" for name, caption in rows)
    else:
        text = "file_name,text\n" + "".join(f'{name},"{caption}"\n' for name, caption in rows)
    put(tmp_path / "train" / f"metadata.{kind}", text)
    sources = find_videos(str(tmp_path))
    assert captions_of(sources) == {"train/b.mp4": ("a mug, blue",), "train/a.mp4": ("a car",), "train/walk": ()}
    assert sources[2].is_frames
    assert captions_of(find_videos(str(tmp_path), "text")) == captions_of(sources)
    with pytest.raises(MVCustomError, match=rf"metadata.{kind}: line \d has no 'title' \(caption_column\)"):
        find_videos(str(tmp_path), "title")
    (tmp_path / "train" / "a.mp4").unlink()
    with pytest.raises(MVCustomError, match=r"names a\.mp4, which is not there"):
        find_videos(str(tmp_path))


def test_shards(tmp_path):
    files = {
        "x/000.mp4": b"first video",
        "x/000.txt": b"a car",
        "x/001.json": b'{"caption": "a mug"}',
        "x/001.webm": b"second",
        "x/002.jpg": b"no video",
    }
    put_shard(tmp_path / "clips-07.tar", files)
    put_shard(tmp_path / "clips-08.tar", {"z.gif": b"third"})
    sources = find_videos(str(tmp_path))
    assert captions_of(sources) == {
        "clips-07.tar/x/000.mp4": ("a car",),
        "clips-07.tar/x/001.webm": ("a mug",),
        "clips-08.tar/z.gif": (),
    }
    assert [source.files[0].read() for source in sources] == [b"first video", b"second", b"third"]
    for pattern in ("clips-{07..08}.tar", "clips-*.tar"):
        assert find_videos(str(tmp_path / pattern)) == sources
    assert find_videos([str(tmp_path / "clips-07.tar"), str(tmp_path / "clips-08.tar")]) == sources


def test_wrong_places_are_named(tmp_path):
    with pytest.raises(MVCustomError, match=r"data: there is no .*nowhere"):
        find_videos(str(tmp_path / "nowhere"))
    with pytest.raises(MVCustomError, match=r"there is no .*clips-03\.tar"):
        find_videos(str(tmp_path / "clips-{03..04}.tar"))
    with pytest.raises(MVCustomError, match=r"there is nothing at .*\*\.tar"):
        find_videos(str(tmp_path / "*.tar"))
    put(tmp_path / "a.tar.gz")
    with pytest.raises(MVCustomError, match=r"uncompressed \.tar shard, got .*a\.tar\.gz"):
        find_videos(str(tmp_path / "a.tar.gz"))
    with pytest.raises(MVCustomError, match="no videos in"):
        find_videos(str(tmp_path))
    whole = put_shard(tmp_path / "whole.tar", {"a.mp4": bytes(5000)}).read_bytes()
    put(tmp_path / "cut.tar", whole[:3000])
    with pytest.raises(MVCustomError, match=r"cut\.tar is not a whole uncompressed tar archive"):
        find_videos(str(tmp_path / "cut.tar"))
    put(tmp_path / "v" / "a.mp4")
    put(tmp_path / "v" / "a.json", "{")
    with pytest.raises(MVCustomError, match=r"a\.mp4: its caption \(\.json\) cannot be read"):
        captions_of(find_videos(str(tmp_path / "v")))
    put(tmp_path / "m" / "metadata.jsonl", '{"file_name": "a.mp4"}\n{"text": "a car"}\n')
    with pytest.raises(MVCustomError, match="line 2 has no file_name"):
        find_videos(str(tmp_path / "m"))


@pytest.mark.parametrize("kind", ["folder", "metadata", "shard"])
def test_geometry_is_found_beside_videos(tmp_path, kind):
    suffix = ".geometry.safetensors"
    if kind == "shard":
        place = put_shard(
            tmp_path / "a.tar", {"1.mp4": b"video", f"1{suffix}": b"geometry", "2.mp4": b"video", "2.txt": b"text"}
        )
    else:
        place = tmp_path / "videos"
        put(place / "1.mp4"), put(place / f"1{suffix}", b"geometry"), put(place / "2.mp4")
        if kind == "metadata":
            put_frames(place / "3"), put(place / f"3{suffix}", b"of frames")
            rows = [{"file_name": name, "text": "text"} for name in ("1.mp4", "2.mp4", "3")]
            put(place / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
        else:
            put_frames(tmp_path / "videos" / "deep" / "3"), put(place / "deep" / f"3{suffix}", b"of frames")
    found = [source.geometry and source.geometry.read() for source in find_videos(str(place))]
    assert found == [b"geometry", None, b"of frames"][: len(found)]
    assert len(found) == (2 if kind == "shard" else 3)
