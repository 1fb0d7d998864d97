"""`python -m tests.fuzz --seconds 600 --seed 0`: takes turns among the readers until the time is over."""

import argparse
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

import hypothesis

from mail.errors import UserError
from tests.fuzz.guard import Guard
from tests.fuzz.targets import Target, targets

ROUND = 20  # inputs of one target, then comes the next


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one target")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that a reader failed on")
    parser.add_argument("--input", type=Path, help="give --only's reader this kept input, and nothing else")
    options = parser.parse_args()
    counts: dict[str, dict[str, int]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "inside")
        folder.mkdir()
        guard = Guard(folder)
        readers = {n: t for n, t in targets(folder).items() if options.only in (None, n)}
        if options.input:
            readers[options.only].read(options.input.read_bytes())
            return 0
        end, round_ = time.monotonic() + options.seconds, options.seed * 1_000_000
        while readers and time.monotonic() < end:
            for name in list(readers):
                try:
                    spoil(readers[name], guard, round_, counts.setdefault(name, {"read": 0, "refused": 0}))
                except Exception as error:  # whatever a reader must not do
                    failed = True
                    print(f"{name}, seed {round_}:\n{told(error)}", file=sys.stderr)
                    if options.keep:
                        options.keep.mkdir(exist_ok=True, parents=True)
                        (options.keep / name.replace(" ", "-")).write_bytes(last_input[0])
                    del readers[name]
            round_ += 1
    print(json.dumps({"fuzz": counts, "failed": failed}))
    return int(failed)


def told(error: BaseException) -> str:
    """Where it happened; of several failures that Hypothesis found, each."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(told, error.exceptions))
    lines = traceback.format_exception(error)
    return "".join(line for line in lines if "hypothesis" not in line)[-2000:]


last_input = [b""]


def spoil(target: Target, guard: Guard, seed: int, counts: dict[str, int]) -> None:
    """One round; Hypothesis makes the input that fails as small as it can."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=ROUND, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(target.inputs)
    def one(data: bytes) -> None:
        outcome, last_input[0] = "read", data
        guard.begin()
        try:
            target.read(data)
        except UserError as error:
            outcome = "more than a line" if "\n" in str(error).strip() else "refused"
        finally:
            seen = guard.end()
        assert outcome in counts, outcome
        assert not seen, f"outside of the folder: {seen[:5]}"
        counts[outcome] += 1

    one()


if __name__ == "__main__":
    sys.exit(main())
