"""The command line: its spellings are promises, every option is explained, wrong input gets a short message."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import tyro

from mail import __version__, waiting
from mail.errors import UserError
from pipelines.__main__ import main
from pipelines.cli import STAGES, load, parse
from pipelines.options import Place, place_of
from pipelines.stage import Stage
from tests.s3 import use_endpoint


def all_stages() -> dict[str, type[Stage]]:
    """Every stage by the words that call it."""
    stages: dict[str, type[Stage]] = {}
    for name in STAGES:
        loaded = load(name)
        stages |= (
            {f"{name} {kind}": stage for kind, stage in loaded.items()} if isinstance(loaded, dict) else {name: loaded}
        )
    return stages


def flags(stage: type, prefix: str = "") -> list[str]:
    """Every flag of a stage, dotted for nested configs; "STR" for an argument without a flag, as the help has it."""
    hints = get_type_hints(stage, include_extras=True)
    found = []
    for field in dataclasses.fields(stage):
        name = prefix + field.name.rstrip("_").replace("_", "-")
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += flags(hint, f"{name}.")
        elif tyro.conf.Positional in getattr(hint, "__metadata__", ()):
            found.append("STR")
        else:
            found.append(f"--{name}")
    return found


def explanation(flag: str, text: str) -> str:
    """What a help text says about a flag: beside it, or in the line below where the flag is long."""
    options = re.split(r"(?m)^\W*(?:positional arguments|options) ", text, maxsplit=1)[1]  # leaves the usage line out
    lines = [line.strip("│| ") for line in options.splitlines()]
    for line, below in itertools.pairwise(lines):
        names, _, words = line.partition("  ")
        if line.startswith(("-", "STR", "[STR")) and flag in re.split(r"[ ,\[\]]+", names):
            return words.strip() or below
    return ""


def help_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse([*words.split(), "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


STAGE_WORDS = list(all_stages())

# What users script against. Others may be added; these may never go.
PROMISES = """
demo --out O
prepare synthetic --out STORE --images 5 --seed 1
prepare refcoco --split-by unc --root DIR --out STORE
prepare refcoco+ --split-by unc --root DIR --out STORE
prepare refcocog --split-by google --root DIR --out STORE
prepare refcocog --split-by umd --root DIR --out STORE --strict
prepare grefcoco --root DIR --images DIR2 --out STORE
prepare referit --split-by berkeley --root DIR --out STORE
prepare phrasecut --root DIR --out STORE
prepare refcoco-joint --root DIR --out STORE --parts DIR3
train-proposer --instances FILE --images DIR --out PROPOSER
train-proposer --instances FILE --images DIR --out PROPOSER --preset r50-fpn-v2
import-proposer --weights COCO_V1 --out PROPOSER
precompute --data STORE --proposer PROPOSER --masks TABLE --dry-run
prepare custom --expressions FILE --images DIR --out STORE --name N --splits train=.8,val=.1,test=.1 --seed 1
prepare custom --expressions FILE --out STORE --format label-studio --text-field words --instances FILE2 --skip-bad
prepare check DIR
prepare check --expressions FILE --images DIR --out STORE --name N --splits train=.8,val=.1,test=.1 --seed 1
data verify STORE --json FILE
data show STORE --out DIR --most 48 --seed 1 --json FILE
data diff A B --json FILE
masks status --masks TABLE --data STORE --json FILE
masks verify --masks TABLE --data STORE --json FILE
train --preset tiny --data STORE --masks TABLE --name RUN --workers 2 --resume --out DIR
evaluate --model MODEL --data STORE --masks TABLE --split testA --out DIR
score --data STORE --split testA --predictions FILE --protocol original --json FILE
predict --model models:/mail-ris@champion --image FILE --text WORDS --out FILE.png --proposer PROPOSER
serve
serve --model MODEL --host 127.0.0.1 --port 8000 --token-file FILE --corrections PLACE
serve --replicas 1 4 --ingress 1 2 --gpus 1 --allow-hosts example.org --allow-origins https://example.org
serve --label-studio http://127.0.0.1:8080
models list
models show models:/mail-ris@champion
models audit models:/mail-ris@champion --data STORE OTHER --json FILE
import-proposer --weights FILE --out PROPOSER --images-seen coco/train2017 FILE --images-not-seen FILE
train-proposer --instances FILE --images DIR --out PROPOSER --weights FILE --weights-images coco/train2017
models promote 3
models promote 3 --split testA testB --data STORE --masks TABLE --evaluations DIR --min-gain 0 --figure mIoU
models promote models:/mail-ris/3 --split testA --allow-leaky REASON
models rollback
models register RUN --name NAME
train --preset tiny --data STORE --masks TABLE --name RUN --grace 60
train --from MODEL --data STORE --masks TABLE --name RUN --patience 4
train --from MODEL --data STORE --masks TABLE --name RUN --rehearse STORE --share .3 --rehearse-masks TABLE
fine-tune --from MODEL --expressions FILE --images DIR --name RUN
fine-tune --from MODEL --expressions FILE --instances FILE --name RUN
fine-tune --from MODEL --data STORE --name RUN --out DIR --promote
evaluate --model MODEL --data STORE --masks TABLE --split SPLIT --out DIR --compare parent
models promote 2 --split testA --max-forgotten 2
prepare scenes --out STORE --scene.domain tiles
train --preset tiny --data STORE --masks TABLE --name RUN --resume --learning-rate 1e-4 --because REASON
"""


@pytest.mark.parametrize("line", PROMISES.strip().splitlines())
def test_promised_spellings_are_understood(line: str) -> None:
    assert isinstance(parse(line.split()), Stage)


@pytest.mark.parametrize("words", STAGE_WORDS)
def test_help_explains_every_option(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = help_of(words, capsys)
    for flag in flags(all_stages()[words]):
        explained = explanation(flag, text)
        assert explained, f"{words}: {flag} is not in the help"
        assert not explained.startswith(("(default", "(required", "-")), f"{words}: {flag} is not explained"


@pytest.mark.parametrize("words", STAGE_WORDS)
def test_every_stage_says_what_it_does_and_has_a_dry_run(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(words, capsys)
    assert "--dry-run" in text
    assert "--no-dry-run" not in text
    assert all_stages()[words].__doc__, words
    assert not str(all_stages()[words].__doc__).startswith(all_stages()[words].__name__ + "("), (
        "dataclass's own docstring"
    )


def test_overview_lists_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name, entry in STAGES.items():
        assert re.search(rf"(?m)^  {re.escape(name)} +{re.escape(entry.help)}$", text)


def test_group_lists_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("prepare", capsys)
    for words in STAGE_WORDS:
        if words.startswith("prepare "):
            assert f"  {words.split()[1]} " in text


@pytest.mark.parametrize(("words", "source"), [("train", "Hugging Face hub"), ("import-proposer", "PyTorch's server")])
def test_help_says_what_is_fetched_and_how_to_do_without(
    words: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(help_of(words, capsys).replace("│", " ").split())
    assert source in text
    assert re.search("does without|without a network", text)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--version"])
    assert capsys.readouterr().out == f"mail-ris {__version__}\n"


def test_unknown_stage_is_one_line_with_the_closest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "--name", "x"]) == 2
    assert capsys.readouterr().err == "error: there is no `mail-ris trian`: did you mean train?\n"


def test_unknown_member_of_a_group_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "imagenet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no `mail-ris prepare imagenet`: ")
    assert error.count("\n") == 1


def test_no_stage_prints_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([])
    assert stopped.value.code == 2
    assert "train-proposer" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "train --preset tiny --data STORE --name RUN --no-such-flag 1",
        "train --preset tiny --data STORE --name RUN --workers many",
        "train --data STORE",
        "prepare refcoco --split-by none --root DIR --out STORE",
    ],
)
def test_wrong_flags_end_with_code_2_and_few_lines(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(line.split())
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert 0 < captured.err.count("\n") <= 20
    assert "Traceback" not in captured.err


def test_flag_before_the_member_of_a_group_is_explained() -> None:
    with pytest.raises(UserError, match="must come after"):
        parse(["masks", "--masks", "TABLE"])


def places(stage: type[Stage]) -> dict[str, Place]:
    hints = get_type_hints(stage, include_extras=True)
    return {f.name: place for f in dataclasses.fields(stage) if (place := place_of(hints[f.name])) is not None}


PLACES = [(words, name) for words, stage in all_stages().items() for name in places(stage)]


def flag_of(field: str) -> str:
    return f"--{field.rstrip('_').replace('_', '-')}"


# text that is no place, of all the options that take any text
OTHER_TEXT = {
    "against_split",
    "because",
    "exclude_eval_of",
    "explain",
    "metric",
    "name",
    "namespace",
    "parent_run",
    "preset",
    "proposer_id",
}
OTHER_TEXT |= {"allow_leaky", "device", "protocol", "space", "split", "split_by", "splits", "status", "text", "workers"}
OTHER_TEXT |= {
    "text_field",
    "validation_split",
    "host",
    "allow_hosts",
    "allow_origins",
    "label_studio",
    "mirror",
    "rows",
    "explain",
}


def test_every_option_that_names_a_place_is_marked_as_one() -> None:
    for words, stage in all_stages().items():
        for name, hint in get_type_hints(stage, include_extras=True).items():
            if name not in {f.name for f in dataclasses.fields(stage)} or not re.search(r"\b(str|Path)\b", str(hint)):
                continue
            is_version = (words, name) == ("models promote", "model")
            assert place_of(hint) is not None or name in OTHER_TEXT or is_version, f"{words}: {name}"


@pytest.mark.parametrize(("words", "name"), PLACES)
def test_another_kind_of_address_is_refused_by_name(words: str, name: str) -> None:
    stage, wanted = all_stages()[words], ("gs://bucket/x", "gs:// is not understood")
    required = [f for f in dataclasses.fields(stage) if f.default is f.default_factory is dataclasses.MISSING]
    values = {f.name: (("x",) if "tuple" in str(f.type) else "x") for f in required}
    for address, said in (wanted, ("s3://b/x", "not on this machine") if places(stage)[name].local else wanted):
        several = name in ("image", "evaluations", "stores", "held_out")
        with pytest.raises(UserError, match=f"^{flag_of(name)} {address}.*{said}"):
            stage(**values | {name: (address,) if several else address})


BOTH = [
    (words, written, read)
    for words, stage in all_stages().items()
    for written, of in places(stage).items()
    for read, other in places(stage).items()
    if of.written and not other.written
]


@pytest.mark.parametrize(("words", "written", "read"), BOTH)
def test_no_stage_writes_where_it_reads(words: str, written: str, read: str, tmp_path: Path) -> None:
    stage, place = all_stages()[words], tmp_path / "place"
    place.mkdir()
    required = [f for f in dataclasses.fields(stage) if f.default is f.default_factory is dataclasses.MISSING]
    values = {f.name: (("x",) if "tuple" in str(f.type) else f"{f.name} of it") for f in required}
    several = "tuple" in str(get_type_hints(stage)[read])
    with pytest.raises(UserError, match=f"{flag_of(written)} {place} would write over what {flag_of(read)} reads"):
        stage(**values | {written: str(place), read: (str(place),) if several else str(place)})


def test_addresses_are_absolute_once_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "vilt").mkdir()
    line = "train --preset vilt-b32 --data=~/store --masks S3://bucket/masks --name RUN --out file:///a%20b"
    train = parse([*line.split(), "--pretrained", "vilt", "--tokenizer", "dandelin/vilt-b32-mlm"])
    assert vars(train) == vars(train) | {
        "data": str(tmp_path / "home/store"),
        "masks": "s3://bucket/masks",
        "out": "/a b",
        "pretrained": str(tmp_path / "vilt"),
        "tokenizer": "dandelin/vilt-b32-mlm",
    }
    photo = ["predict", "--model", "vilt", "--image", "file:///%C3%BC.png", "--text", "x", "--out=~/m.png"]
    predict = parse(photo)
    assert vars(predict) == vars(predict) | {
        "model": str(tmp_path / "vilt"),
        "image": (Path("/ü.png"),),
        "out": tmp_path / "home/m.png",
    }


@pytest.mark.parametrize("place", ["file/store", "file"])
def test_a_place_that_cannot_be_written_is_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["prepare", "synthetic", "--images", "12", "--out", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(tmp_path / "file") in error


def test_missing_store_is_one_line_not_a_stack_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nothing")
    code = main(["score", "--data", missing, "--split", "testA", "--predictions", f"{missing}.jsonl"])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert missing in error
    assert error.count("\n") == 1


def test_a_store_that_is_away_is_one_line_whatever_option_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(waiting, "GIVE_UP_AFTER", 0.0)
    for number, line in enumerate(
        (
            "train-proposer --instances s3://B/i.json --images IMAGES --out OUT",
            "score --data s3://B/store --split val --predictions P",
            "masks status --masks s3://B/masks",
            "prepare mix --stores s3://B/a s3://B/b --out OUT",
        )
    ):
        arguments = line.replace("OUT", str(tmp_path / "out")).replace("B/", f"bucket{number}/").split()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: s3://bucket{number}: http://127.0.0.1:9 does not answer (")
        assert error.count("\n") == 1


def test_unknown_preset_is_one_line_that_names_the_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    main(["prepare", "synthetic", "--out", str(store), "--images", "12"])
    capsys.readouterr()
    arguments = ["--data", str(store), "--proposals", "none", "--name", "x", "--out", str(tmp_path / "run")]
    assert main(["train", "--preset", "huge", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "huge" in error
    assert "tiny" in error


def test_unknown_split_is_one_line_that_names_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, predictions = tmp_path / "store", tmp_path / "p.jsonl"
    predictions.touch()
    main(["prepare", "synthetic", "--out", str(store), "--images", "12"])
    capsys.readouterr()
    assert main(["score", "--data", str(store), "--split", "testC", "--predictions", str(predictions)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "testC" in error
    assert "testA" in error


def test_dry_run_prints_config_and_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert main(["prepare", "synthetic", "--out", str(store), "--images", "7", "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["config"]["images"] == 7
    assert printed["plan"]["images"] == 7
    assert not store.exists()


@pytest.mark.cluster
def test_module_and_console_command_are_the_same(repository: Path) -> None:
    command = Path(sys.executable).with_name("mail-ris")
    arguments = ["prepare", "synthetic", "--out", "nowhere", "--dry-run"]
    outputs = [
        subprocess.run([*program, *arguments], cwd=repository, capture_output=True, text=True, check=True).stdout
        for program in ([str(command)], [sys.executable, "-m", "pipelines"])
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.cluster
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_enough_is_no_error(unbuffered: str) -> None:
    command = [sys.executable, "-m", "pipelines", "--help"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout
    assert process.stderr
    process.stdout.close()  # as `| head` does
    assert (process.stderr.read(), process.wait()) == (b"", 141)
