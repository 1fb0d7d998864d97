import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mail import rle
from mail.data.custom import read_expressions, write_store
from mail.data.images import turn_upright
from mail.errors import UserError
from tests.published import HEIGHT, WIDTH, box, jpeg


def lines() -> list[dict]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:5] = True
    encoded = rle.encode(mask)
    return [
        {"expr_id": "1", "ref_id": "r", "image": "a.jpg", "text": "cup", "split": "train", "polygons": box(1, 1, 4, 5)},
        {"expr_id": "2", "ref_id": "r", "image": "a.jpg", "text": "mug", "split": "train", "polygons": box(1, 1, 4, 5)},
        {"expr_id": "3", "image": "a.jpg", "text": "a camel", "split": "train", "no_target": True},
        {
            "expr_id": "4",
            "image": "b/c.png",
            "text": "sky",
            "split": "val",
            "category": "sky",
            "rle": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        },
    ]


def write(folder: Path, rows: list) -> tuple[Path, Path]:
    (folder / "photos/b").mkdir(parents=True, exist_ok=True)
    (folder / "photos/a.jpg").write_bytes(jpeg())
    (folder / "photos/b/c.png").write_bytes(jpeg(kind="PNG"))
    path = folder / "mine.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return path, folder / "photos"


def test_lines_become_a_store(tmp_path):
    store, _ = write_store(*write(tmp_path, lines()), str(tmp_path / "store"), name="mine")
    assert store.splits == {
        "train": {"images": 1, "refs": 2, "expressions": 3},
        "val": {"images": 1, "refs": 1, "expressions": 1},
    }
    rows = {row["expr_id"]: row for row in store.expressions().to_pylist()}
    assert rle.area(rows["mine/1"]["target"]) == 20
    assert rows["mine/3"]["no_target"]
    assert rows["mine/3"]["target"]["size"] == [HEIGHT, WIDTH]
    assert rle.area(rows["mine/4"]["target"]) == 5 * WIDTH
    assert (rows["mine/4"]["image_id"], rows["mine/4"]["category"]) == ("mine/b/c.png", "sky")


def test_null_is_the_same_as_absent(tmp_path):
    nothing = dict.fromkeys(("ref_id", "category", "polygons", "rle", "no_target"))
    columns = [nothing | row for row in lines()]
    table, _ = write_store(*write(tmp_path, columns), str(tmp_path / "table"), name="mine")
    bare, _ = write_store(*write(tmp_path, lines()), str(tmp_path / "bare"), name="mine")
    assert table.digest == bare.digest
    assert table.expressions()["ref_id"].to_pylist() == ["mine/r", "mine/r", "mine/3", "mine/4"]


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("b\\\\c.png", "but there is b/c.png"),
        ("http://host/photos/a.jpg", "but there is a.jpg"),
        ("my%20cup.jpg", "but there is my cup.jpg"),
        ("cafe\u0301.jpg", "but there is caf\u00e9.jpg"),
        ("../mine.jsonl", "which leads out of the folder"),
        (".", "an empty name"),
    ],
)
def test_a_name_that_another_system_wrote_gets_a_hint(tmp_path, image, hint):
    rows = lines()
    rows[3]["image"] = image
    path, photos = write(tmp_path, rows)
    for name in ("my cup.jpg", "caf\u00e9.jpg"):
        (photos / name).write_bytes(jpeg())
    with pytest.raises(UserError, match=f"1 images are missing in .*{hint}"):
        write_store(path, photos, str(tmp_path / "store"), name="mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": " "}, "1 lines cannot be used .line 2: text must be text"),
        ({"expr_id": 5}, "line 2: expr_id must be text"),
        ({"split": "dev"}, "line 2: split 'dev' is none of train, val"),
        ({"polygons": None}, "line 2: exactly one of polygons, rle and no_target must be given, not none"),
        ({"no_target": True}, "line 2: exactly one of"),
        ({"no_target": "false"}, 'no_target must be 0 or 1, not "false" .expr_id "2".'),
        ({"ref_id": 0.5}, "ref_id, where it is no text, must be a whole number, not 0.5"),
        ({"category": 3}, "category must be text, not 3"),
        ({"text": "cup \ud83d"}, "line 2: text has half a character .*ud83d. at place 5"),
        ({"image": "a\ud83d.jpg"}, "line 2: image has half a character"),
    ],
)
def test_line_that_cannot_be_used_is_named(tmp_path, change, message):
    rows = lines()
    rows[1] |= change
    with pytest.raises(UserError, match=message):
        read_expressions(write(tmp_path, rows)[0])


@pytest.mark.parametrize("line", ["{", "[]", "nonsense"])
def test_line_that_is_no_json_object_is_named(tmp_path, line):
    with pytest.raises(UserError, match=r"mine\.jsonl: 1 lines cannot be used \(line 5: "):
        read_expressions(write(tmp_path, [*lines(), line])[0])


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl cannot be read"):
        read_expressions(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(UserError, match=r"latin\.jsonl cannot be read: line 1: byte 0xe9 at place 14 is not UTF-8"):
        read_expressions(tmp_path / "latin.jsonl")


@pytest.mark.parametrize("image", ["absent.jpg", "../mine.jsonl", "/etc/passwd"])
def test_photos_outside_the_folder_do_not_exist(tmp_path, image):
    rows = lines()
    rows[3]["image"] = image
    with pytest.raises(UserError, match=r"1 images are missing in"):
        write_store(*write(tmp_path, rows), str(tmp_path / "store"), name="mine")
    store, findings = write_store(*write(tmp_path, rows), str(tmp_path / "store"), name="mine", skip_bad=True)
    assert "val" not in store.splits
    assert sum(findings.skipped.values()) == 1


def test_run_lengths_of_another_size_are_named(tmp_path):
    rows = lines()
    rows[3]["rle"] = {"size": [5, 5], "counts": [25]}
    with pytest.raises(UserError, match=r"1 images have another size than annotated \(mine/b/c\.png"):
        write_store(*write(tmp_path, rows), str(tmp_path / "store"), name="mine")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_polygons_on_the_stored_pixels_turn_with_the_photo(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, photos = write(tmp_path, lines()[:1])
    (photos / "a.jpg").write_bytes(jpeg(exif=exif))
    store, findings = write_store(path, photos, str(tmp_path / "s"), name="mine", exif_annotated="as-stored")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:6, 1:5] = True
    np.testing.assert_array_equal(
        rle.decode(store.expressions()["target"][0].as_py()), turn_upright(expected, orientation)
    )
    assert findings.assumed_stored == ([] if orientation == 1 else ["mine/a.jpg"])


def test_broken_photo_without_a_known_size_is_named(tmp_path):
    path, photos = write(tmp_path, lines())
    (photos / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"1 images cannot be decoded, and nothing tells their size \(mine/a\.jpg: "):
        write_store(path, photos, str(tmp_path / "store"), name="mine")
