"""What a label config says: which tag shows the photo, which one is painted with, and where sentences are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from mail.data.custom.described import SENTENCES, sentences
from mail.data.custom.label_studio import IMAGES

BRUSHES, POLYGONS = ("brushlabels", "brush"), ("polygonlabels", "polygon")


@dataclass(frozen=True)
class Labelling:
    """The tags of a project that matter here.

    Attributes:
        image: name of the tag that shows the photo. photo: the key of a task's data that it shows.
        control: name of the tag that is painted with. kind: what its regions are, one of `BRUSHES` or `POLYGONS`.
        labels: that a region may have; none for tags without labels.
        text_keys: keys of a task's data that may hold the sentence, the likeliest first.
        spoken: name of the text area in which each region has a sentence of its own, None if there is none.
    """

    image: str
    photo: str
    control: str
    kind: str
    labels: tuple[str, ...] = ()
    text_keys: tuple[str, ...] = ()
    spoken: str | None = None

    @classmethod
    def read(cls, config: Any) -> "Labelling":
        """Of the XML of a label config. Raises ValueError where nothing can be painted on a photo by it."""
        tags = list(_tags(config))
        photos = {tag.get("name"): _key(tag) for tag in tags if tag.tag.lower() == "image" and _key(tag)}
        if not photos:
            raise ValueError('the label config shows no photo: it needs <Image name="image" value="$image"/>')
        for tag in tags:
            image = next((name for name in _targets(tag) if name in photos), None)
            if tag.tag.lower() in BRUSHES + POLYGONS and tag.get("name") and image is not None:
                break
        else:
            raise ValueError("the label config paints nothing on a photo: it needs BrushLabels or PolygonLabels")
        labels = tuple(label for child in tag.iter("Label") if (label := child.get("value", "")))
        kind = tag.tag.lower()
        if kind.endswith("labels") and not labels:
            raise ValueError(f"{tag.tag} {tag.get('name')!r} of the label config has no Label")
        areas = [area for area in tags if area.tag.lower() == "textarea" and image in _targets(area)]
        shown = [*areas, *(text for text in tags if text.tag.lower() in ("text", "header"))]
        per_region = (area.get("name") for area in areas if area.get("perRegion", "").lower() == "true")
        return cls(
            image=str(image),
            photo=str(photos[image]),
            control=tag.get("name", ""),
            kind=kind,
            labels=labels,
            text_keys=tuple(dict.fromkeys([*filter(None, map(_key, shown)), *SENTENCES])),
            spoken=next(per_region, None),
        )

    def text_key(self, data: dict[str, Any]) -> str | None:
        """The key of a task's data that holds its sentence, None if it holds none."""
        return next((key for key in self.text_keys if data.get(key)), None)

    def texts(self, data: dict[str, Any]) -> list[str]:
        """The sentences in a task's data. Raises ValueError where they are no text."""
        key = self.text_key(data)
        return sentences(data[key], key) if key else []

    def photo_of(self, data: dict[str, Any]) -> str:
        """Where a task's photo is, as Label Studio writes it. Raises ValueError where it names none."""
        given = data.get(self.photo) or next((data[key] for key in IMAGES if data.get(key)), None)
        if not isinstance(given, str):
            raise ValueError(f"its data names no photo: {self.photo} is where it would be")
        return given

    def label(self, text: str) -> str | None:
        """The label of what a sentence names: the longest that is in its words, else the first; None without labels."""
        said = [label for label in self.labels if re.search(rf"\b{re.escape(label)}\b", text, re.IGNORECASE)]
        return max(said, key=len, default=None) or next(iter(self.labels), None)


def _tags(config: Any) -> Iterator[ElementTree.Element]:
    if not isinstance(config, str) or not config.strip():
        raise ValueError("there is no label config")
    if "<!" in re.sub(r"<!--.*?-->", "", config, flags=re.DOTALL):  # entities could make it grow without bound
        raise ValueError("the label config has a document type, which Label Studio's have not")
    try:
        return ElementTree.fromstring(config).iter()
    except ElementTree.ParseError as error:
        raise ValueError(f"the label config is no XML: {error}") from None


def _targets(tag: ElementTree.Element) -> list[str]:
    return [name.strip() for name in tag.get("toName", "").split(",")]


def _key(tag: ElementTree.Element) -> str | None:
    """The key of a task's data that a tag shows, of `value="$key"`."""
    found = re.fullmatch(r"\$([\w.-]+)", tag.get("value", ""))
    return found[1] if found else None
