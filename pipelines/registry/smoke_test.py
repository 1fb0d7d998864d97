"""Does a registered model work by itself? Loads it as a stranger would, and asks it about a photo.

    python -I pipelines/registry/smoke_test.py models:/mail-ris/3

Runs in a process of its own, started with `-I`, so that the model's own code is used and not this checkout's. The last
line of its output is JSON: the answers, and which code gave them.
"""

import io
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

HEIGHT, WIDTH = 120, 160
TEXTS = ("the red box on the left", "the circle")


def photo() -> bytes:
    """A JPEG with a red box and a blue disc on noise."""
    import numpy as np
    from PIL import Image, ImageDraw

    noise = np.random.default_rng(0).integers(90, 150, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((15, 30, 60, 90), fill=(220, 30, 30))
    draw.ellipse((95, 35, 145, 85), fill=(40, 40, 230))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def example(texts: tuple[str, ...] = TEXTS[:1]) -> "pd.DataFrame":
    """What a registered model takes: the photo (`image`, bytes), once for each `text`."""
    import pandas as pd

    return pd.DataFrame({"image": [photo()] * len(texts), "text": list(texts)})


def main(address: str) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(address)
    answers = model.predict(example(TEXTS))
    if len(answers) != len(TEXTS):
        raise SystemExit(f"{len(TEXTS)} expressions got {len(answers)} answers")
    import mail  # the model's own, since it is loaded
    from mail import rle

    rows = []
    for text, answer in zip(TEXTS, answers.to_dict("records"), strict=True):
        mask = rle.decode({"size": [int(v) for v in answer["size"]], "counts": answer["counts"].encode()})
        if mask.shape != (HEIGHT, WIDTH):
            raise SystemExit(f"the mask of {text!r} is {mask.shape}, the photo {(HEIGHT, WIDTH)} pixels")
        if not 0 <= answer["score"] <= 1:
            raise SystemExit(f"the score of {text!r} is {answer['score']}")
        rows.append({"text": text, "score": round(float(answer["score"]), 4), "share": round(float(mask.mean()), 4)})
    print(json.dumps({"answers": rows, "code": mail.__file__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
