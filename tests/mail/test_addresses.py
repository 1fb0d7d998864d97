"""One spelling of every address, whatever characters are in it; other kinds are refused by name."""

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from mail import addresses
from mail.data import files
from mail.data.mask_table import MaskTable
from mail.data.store import DataStore
from mail.errors import UserError
from tests.boxes import make_boxes
from tests.mail.data.test_store import fill
from tests.s3 import BUCKET, s3_server

ODD = "Größe 100% #1 ?ü"
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@given(NAMES)
def test_a_local_name_stays_what_it_is_byte_for_byte(name: str) -> None:
    path = f"/data/{name}"
    assert addresses.absolute(path) == path
    assert addresses.absolute(addresses.encoded_uri(path)) == path
    assert addresses.kept_path(addresses.encoded_uri(path)) == Path(path)
    assert files.resolve(path)[1] == path
    assert addresses.absolute(f"./{name}") == str(Path.cwd() / name)


@given(NAMES)
def test_what_is_absolute_goes_through_unchanged(name: str) -> None:
    for address in (addresses.absolute(f"./{name}"), addresses.absolute(f"s3://bucket/{name}")):
        assert addresses.absolute(address) == address
        assert addresses.absolute(addresses.join(address, "a")) == addresses.join(address, "a")


@given(NAMES)
def test_a_database_is_found_again_in_any_folder(name: str) -> None:
    path = Path(f"/data/{name}/mlflow.db")
    uri = addresses.sqlite_uri(path)
    assert make_url(uri).database == str(path)
    assert addresses.sqlite_path(uri) == path


@pytest.mark.parametrize(
    ("given_as", "path"),
    [
        ("~/store", "/home of/me/store"),
        ("~", "/home of/me"),
        ("./~", "/here/~"),
        ("store/", "/here/store"),
        ("file:///a%20b/%C3%BC%231", "/a b/ü#1"),
        ("file://localhost/a", "/a"),
        ("FILE:///a?b", "/a?b"),
        ("file:/a", "/a"),
        ("file:///100%", "/100%"),
        ("a:b", "/here/a:b"),
        ("data/s3:/x", "/here/data/s3:/x"),
        ("s3:x", "/here/s3:x"),
        ("a%20b", "/here/a%20b"),
        ("S3://Bucket/Key/", "s3://Bucket/Key"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
    ],
)
def test_every_kind_has_one_spelling(given_as: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home of/me")
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert addresses.absolute(given_as) == path


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("gs://bucket/x", "gs:// is not understood: give a local path, file:///PATH or s3://BUCKET/KEY"),
        ("HTTP://host/x", "http:// is not understood"),
        ("hdfs://x", "hdfs://"),
        ("s3a://bucket/x", "s3a://"),
        ("file://host/x", "names the machine 'host'"),
        ("file://x", "names the machine 'x'"),
        ("s3:/bucket/x", "names no bucket"),
        ("s3://", "names no bucket"),
        ("", "an empty address"),
        ("/a/\udcff", "no UTF-8"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line(address: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        addresses.absolute(address)
    assert "\n" not in str(refused.value)


def test_a_home_that_nobody_knows_makes_no_folder_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)  # no HOME, and no entry for the user
    with pytest.raises(UserError, match="set HOME"):
        addresses.absolute("~/store")


def test_a_hub_name_stays_one_unless_there_is_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vilt").mkdir()
    assert addresses.absolute_or_name("vilt") == str(tmp_path / "vilt")
    assert addresses.absolute_or_name("./other") == str(tmp_path / "other")
    assert addresses.absolute_or_name("dandelin/vilt-b32-mlm") == "dandelin/vilt-b32-mlm"
    assert addresses.absolute_or_name("models:/mail-ris@champion") == "models:/mail-ris@champion"
    with pytest.raises(UserError, match="gs://"):
        addresses.absolute_or_name("gs://bucket/vilt")


def test_what_is_somewhere_else_is_no_local_path() -> None:
    assert addresses.kept_path("mlflow-artifacts:/1/models") is None
    assert addresses.kept_path("s3://bucket/1/models") is None
    assert addresses.sqlite_path("postgresql://host/mlflow") is None
    assert addresses.sqlite_path("sqlite:///:memory:") is None
    with pytest.raises(UserError, match="not on this machine"):
        addresses.local_path("s3://bucket/x")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_stores_and_tables_work_in_a_folder_of_any_name(form: str, tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize(form, ODD)
    folder.mkdir()
    boxes = make_boxes(folder, images=8)
    assert os.listdir(tmp_path) == [folder.name]  # neither encoded nor normalised
    uri = f"file://{quote(str(folder))}"
    store = DataStore(f"{uri}/store")
    assert store.uri == str(folder / "store")
    snapshot = MaskTable(addresses.absolute(f"{uri}/masks")).snapshot()
    assert snapshot.digest == boxes.masks.digest
    assert len(snapshot.proposals(store.image_ids().to_pylist())) == 8
    snapshot.check_covers(store.image_index["image_id"])


@pytest.mark.cluster
def test_the_scheme_of_an_object_store_may_be_in_capitals() -> None:
    with s3_server():
        written = fill(f"S3://{BUCKET}/{ODD}/store", ["a", "b"])
        assert written.uri == f"s3://{BUCKET}/{ODD}/store"
        assert DataStore(f"s3://{BUCKET}/{ODD}/store/").digest == written.digest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:hunter2@host:5000/x: no", "at http://***@host:5000/x: no"),
        ("http://hunter2@host", "http://***@host"),
        ("postgresql+psycopg://me:hun/ter2@host/db", "postgresql+psycopg://***@host/db"),
        ("postgresql://me:hun@ter2@host/db", "postgresql://***@host/db"),
        ("http://me:it's@[::1]:80 'http://me:hunter2@host'", "http://***@[::1]:80 'http://***@host'"),
        ("proxy me:hunter2@host:3128", "proxy ***@host:3128"),
        (
            "https://b/k?X-Amz-Signature=hunter2&a=1&X-Amz-Credential=hunter2",
            "https://b/k?X-Amz-Signature=***&a=1&X-Amz-Credential=***",
        ),
        ("x?sv=1&sig=hunter2#token=hunter2", "x?sv=1&sig=***#token=***"),
        ("mysql://host/db?Password=hunter2", "mysql://host/db?Password=***"),
        ('{"a":"s3://b","c":"mail-ris@champion"}', '{"a":"s3://b","c":"mail-ris@champion"}'),
        ("models:/mail-ris@champion of http://host:5000/a@b", "models:/mail-ris@champion of http://host:5000/a@b"),
        ("s3://bucket/a@b:c?d=1", "s3://bucket/a@b:c?d=1"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert addresses.without_secrets(text) == shown
    assert addresses.without_secrets(shown) == shown


@pytest.mark.parametrize("address", ["s3://me:hunter2@bucket/key", "s3://bucket/key?secret_key=hunter2"])
def test_a_secret_in_an_address_of_data_is_refused_unshown(address: str) -> None:
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID") as refused:
        addresses.absolute(address)
    assert "hunter2" not in str(refused.value)
