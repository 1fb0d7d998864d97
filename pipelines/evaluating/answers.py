"""The answers of an evaluation that is not finished: `OUT/.answers.jsonl`, a fingerprint, then a line an image."""

import json
from pathlib import Path

from mail.evaluation import ImageAnswer

ANSWERS = ".answers.jsonl"


def begin(fingerprint: str) -> str:
    """The first line of a record."""
    return json.dumps({"fingerprint": fingerprint}) + "\n"


def read_answers(record: Path, fingerprint: str) -> dict[str, ImageAnswer]:
    """Answers of an interrupted run of this very evaluation, by image id; a line cut short is left out, there too."""
    if not record.exists():
        return {}
    lines = record.read_text().split("\n")
    if json.loads(lines[0] or "{}") != {"fingerprint": fingerprint}:
        return {}
    whole = [line for line in lines[1:-1] if line]
    if lines[-1]:  # the writer was killed in the middle of a line
        record.write_text("\n".join([lines[0], *whole]) + "\n")
    return {a.image_id: a for a in map(ImageAnswer.from_line, whole)}
