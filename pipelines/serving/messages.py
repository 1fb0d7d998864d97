"""What goes over HTTP: the shapes of requests and answers, from which FastAPI makes the OpenAPI description."""

import base64
import binascii
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mail import rle
from mail.answering import Answer
from mail.mask_formats import png, polygons
from pipelines.serving.refused import Refused
from pipelines.serving.segmenter import Reply

Format = Literal["rle", "polygons", "png"]
M = TypeVar("M", bound=BaseModel)
Box = tuple[int, int, int, int]
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["image", "text"],
    "properties": {
        "image": {"type": "string", "format": "binary"},
        "text": {"type": "array", "items": {"type": "string"}},
        "format": {"enum": ["rle", "polygons", "png"]},
        "proposals": {"type": "boolean"},
    },
}
"""The same as `SegmentRequest`, as a form."""


def _one_of(message: M, *names: str) -> M:
    """The message, if one of these fields is given and no other. Raises ValueError otherwise."""
    if sum(getattr(message, name) is not None for name in names) != 1:
        raise ValueError(f"give exactly one of {', '.join(names[:-1])} and {names[-1]}")
    return message


class ImageSource(BaseModel):
    """A photo: its file in base64, the sha256 of one that was asked about before, or an address on an allowed host.

    `{"type": "base64", "value": "..."}` and a bare text in base64, as other services have it, are understood too.
    """

    model_config = ConfigDict(hide_input_in_errors=True)
    base64: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_others_write_it(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"base64": given}
        if isinstance(given, dict) and given.get("type") in ("base64", "url") and "value" in given:
            return {given["type"]: given["value"]}
        return given

    @model_validator(mode="after")
    def _exactly_one(self) -> "ImageSource":
        return _one_of(self, "base64", "sha256", "url")


class TextPrompt(BaseModel):
    """A sentence that names one thing in the photo."""

    type: Literal["text"] = "text"
    text: str


class SegmentRequest(BaseModel):
    """Sentences about one photo."""

    image: ImageSource
    prompts: Annotated[list[TextPrompt], Field(min_length=1)]
    format: Format = "rle"
    proposals: bool = False


class RunLengths(BaseModel):
    """COCO's compressed run lengths."""

    size: tuple[int, int]
    counts: str


class PhotoInfo(BaseModel):
    """The photo as it was understood; width and height after EXIF rotation."""

    sha256: str
    width: int
    height: int


class Result(BaseModel):
    """What a sentence names. `proposals` are numbers of the proposals that the mask is made of, best first."""

    text: str
    mask: RunLengths | list[list[float]] | str
    box: Box | None
    score: float
    no_target: float
    empty: bool
    proposals: list[int]


class ProposalInfo(BaseModel):
    """One of the things that the proposer found in the photo."""

    index: int
    score: float
    box: Box
    mask: RunLengths


class ModelInfo(BaseModel):
    """The model that gave an answer."""

    address: str
    name: str
    version: str | None
    digest: str
    label: Literal["clean", "leaky", "unknown"]


class SegmentResponse(BaseModel):
    """The answers, in the order of the sentences."""

    image: PhotoInfo
    results: list[Result]
    proposals: list[ProposalInfo] | None = None
    model: ModelInfo


class Example(BaseModel):
    """A photo that a visitor may try, and a sentence about it."""

    name: str
    url: str
    text: str


class Capabilities(BaseModel):
    """What the service is."""

    model: ModelInfo
    limits: dict[str, int]
    corrections: bool
    examples: list[Example]


class CorrectionRequest(BaseModel):
    """What a sentence means: the union of some proposals, a mask, or nothing in the photo.

    Proposals are those of one model: with the digest of that one they are refused once another one answers.
    """

    image: ImageSource
    text: str
    proposals: Annotated[list[int], Field(min_length=1)] | None = None
    mask: RunLengths | None = None
    no_target: Literal[True] | None = None
    model: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "CorrectionRequest":
        return _one_of(self, "proposals", "mask", "no_target")


class Kept(BaseModel):
    """The id under which a correction is kept."""

    kept: str


class ErrorInfo(BaseModel):
    """One word for programs, one line for a person."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    error: ErrorInfo


def from_base64(text: str) -> bytes:
    """The bytes; a `data:` address is understood. Raises Refused where it is no base64."""
    _, _, after = text[:100].partition(";base64,")
    try:
        return base64.b64decode(text[text.index(";base64,") + 8 :] if after else text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "no_base64", "the image is no base64") from None


def response_of(reply: Reply, sha256: str, form: Format) -> dict[str, Any]:
    """A `SegmentResponse`, ready for JSON."""
    height, width = reply.size
    found: dict[str, Any] = {
        "image": {"sha256": sha256, "width": width, "height": height},
        "results": [_result(answer, form) for answer in reply.answers],
    }
    if (own := reply.proposals) is not None:
        pairs = enumerate(zip(own.scores, own.boxes, own.rles, strict=True))
        found["proposals"] = [
            {"index": n, "score": float(score), "box": [round(float(v)) for v in box], "mask": rle.to_json(mask)}
            for n, (score, box, mask) in pairs
        ]
    return found | {"model": reply.model}


def _result(answer: Answer, form: Format) -> dict[str, Any]:
    if form == "polygons":
        mask: Any = polygons(answer.mask)
    elif form == "png":
        mask = "data:image/png;base64," + base64.b64encode(png(answer.mask)).decode("ascii")
    else:
        mask = rle.to_json(answer.mask)
    return {
        "text": answer.text,
        "mask": mask,
        "box": answer.box,
        "score": answer.score,
        "no_target": answer.no_target,
        "empty": answer.empty,
        "proposals": answer.chosen,
    }
