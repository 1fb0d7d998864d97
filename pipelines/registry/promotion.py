"""Whether a version may become the champion: the gates, the decision, and its record on the version.

| gate | passes if |
|---|---|
| `lineage` | every link of the chain was recorded and still leads where it did |
| `label` | neither the model nor its evaluations are leaky or of unknown origin, or a reason to allow it is given |
| `comparison` | per split, the lower bound of the paired bootstrap against the champion is above the least gain |
| `parent` | the same against the model that it goes on from, on the data that it was trained on itself |
| `forgetting` | on the data of the model that it goes on from, it may lose as many points to that one as is allowed |
| `smoke test` | a fresh process loads the registered model and segments a photo with it, nothing else at hand |

The first champion has nobody to be compared with; the other gates are the same. Every decision, refusals too, becomes a
tag `promotion.TIME` of the version with all of its figures.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mail import lineage
from mail.addresses import without_secrets
from mail.errors import UserError
from pipelines.registry.champions import Champions, Reign
from pipelines.registry.client import answers, connect, environment
from pipelines.registry.comparison import Comparer, Comparison, NotEvaluated
from pipelines.registry.decision import Decision, Terms
from pipelines.registry.evaluation_notes import log_evaluation
from pipelines.registry.leaky_versions import gaps_and_leaks, record_allowed
from pipelines.registry.models import (
    CHAMPION,
    MODEL_NAME,
    SCHEME,
    Version,
    download,
    find_version,
    versions,
)
from pipelines.terminal import say

TAG = "promotion."
NOT_TRIED = "not tried"
NO_PARENT = "it goes on from no other model"
SMOKE_SECONDS = 600


def promote(version: Version, terms: Terms, comparer: Comparer) -> Decision:
    """Puts a version through the gates and, if it passes, makes it the champion.

    Returns:
        The decision, recorded on the version; `promoted` says which.

    Raises:
        UserError: no decision can be taken: nothing to compare with was named or found.
    """
    champions = Champions(version.name)
    reign = champions.current()
    champion = find_version(f"{version.name}/{reign.champion}") if reign.champion else None
    if champion is not None and not terms.splits:
        raise UserError(
            f"version {champion.version} is the {CHAMPION}: name the splits to compare on, as --split testA testB"
        )
    against = champion.version if champion else None
    decision = Decision(version=version, against=against, terms=terms, protocol=comparer.protocol)
    with answers():
        _judge(decision, champion, comparer)
        if not decision.reasons:
            decision.promoted = True
            history = (*reign.history, against) if against else reign.history
            if champions.append(reign, version.version, history, decision=decision.record()) is None:
                decision.promoted = False
                now = champions.current().champion
                decision.gate("sequence", [f"version {now} became {CHAMPION} meanwhile: compare with that one"])
        _record(decision)
    return decision


def _judge(decision: Decision, champion: Version | None, comparer: Comparer) -> None:
    """The gates, cheap ones first; what costs minutes is not tried on a version that is refused already."""
    version = decision.version
    folder = download(version)
    gaps, leaks = gaps_and_leaks(version, folder)
    decision.gate("lineage", gaps)
    decision.gate("label", [])
    for leak in leaks:
        _leaky(decision, leak)
    decision.gates |= dict.fromkeys(("comparison", "parent", "forgetting", "smoke test"), NOT_TRIED)
    if decision.reasons:
        return
    for look in (_compare, _gained, _forgotten):
        look(decision, champion, comparer)
        if decision.reasons:
            return
    say("smoke test: a fresh process loads the registered model")
    decision.smoke, problems = smoke_test(version, folder)
    decision.gate("smoke test", problems)


def _compare(decision: Decision, champion: Version | None, comparer: Comparer) -> None:
    terms, problems = decision.terms, []
    for split in terms.splits:
        try:
            found = comparer.compare(decision.version, champion, split)
        except NotEvaluated:
            raise
        except UserError as error:
            problems.append(str(error))
            continue
        decision.comparisons.append(found)
        if found.candidate.figures.get("leaky"):
            _leaky(decision, f"the evaluation on {split} is leaky: {lineage.leaks(found.candidate.figures)}")
        if champion is not None:
            problems += _too_little(found, terms, f"version {decision.against}")
    decision.gate("comparison", problems)
    if champion is None and not problems:
        decision.gates["comparison"] = "no champion to compare with"


def _too_little(found: Comparison, terms: Terms, other: str) -> Iterator[str]:
    """What is wrong with the gain over another model, figure by figure."""
    for name in terms.figures:
        difference = found.differences[name]
        lower = 100 * difference.lower
        if not lower > terms.min_gain:
            yield (
                f"{name} on {found.split} may be {lower:+.2f} points from {other} (lower bound of the "
                f"{difference.confidence:.0%} interval), more than {terms.min_gain:+g} is asked"
            )


def _gained(decision: Decision, _: Version | None, comparer: Comparer) -> None:
    try:
        found = comparer.against_parent(decision.version, decision.terms.splits, on="own")
    except UserError as error:
        say(f"not compared with the model that it goes on from: {error}")
        decision.gates["parent"] = f"not compared: {error}"
        return
    decision.gained = found or []
    other = "the model that it goes on from"
    decision.gate("parent", [p for c in decision.gained for p in _too_little(c, decision.terms, other)])
    if found is None:
        decision.gates["parent"] = NO_PARENT


def _forgotten(decision: Decision, _: Version | None, comparer: Comparer) -> None:
    most, problems = decision.terms.max_forgotten, []
    try:
        found = comparer.against_parent(decision.version, decision.terms.splits, on="parent's")
    except UserError as error:
        decision.gate("forgetting", [] if most is None else [str(error)])
        if most is None:
            say(f"what is forgotten cannot be told: {error}")
            decision.gates["forgetting"] = f"not compared: {error}"
        return
    decision.forgetting = found or []
    for comparison in decision.forgetting if most is not None else ():
        for name in decision.terms.figures:
            lost = -100 * comparison.differences[name].lower
            if most is not None and lost > most:
                problems.append(
                    f"{name} on {comparison.split} of {comparison.candidate.figures['data_store']['name']} may have "
                    f"lost {lost:.2f} points, {most:g} are allowed"
                )
    decision.gate("forgetting", problems)
    if found is None:
        decision.gates["forgetting"] = NO_PARENT
    elif most is None and found:
        decision.gates["forgetting"] = "shown only (--max-forgotten asks for more)"


def _leaky(decision: Decision, leak: str) -> None:
    decision.leaks.append(leak)
    allowed = decision.terms.allow_leaky
    decision.gates["label"] = "; ".join([*decision.leaks, *([f"allowed: {allowed}"] if allowed else [])])
    if not allowed:
        decision.reasons.append(f"label: {leak} (--allow-leaky REASON)")


def smoke_test(version: Version, folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Lets a fresh process load and use the registered model.

    Returns:
        What it answered, and what is wrong (nothing: empty).
    """
    from mail.inference import BUNDLED_PROPOSER
    from mail.model import MailConfig

    if MailConfig.from_pretrained(folder).uses_instances and not (folder / BUNDLED_PROPOSER).is_dir():
        return None, ["no proposer is bundled with the model, so that a photo alone is not enough (train --proposer)"]
    script = Path(__file__).with_name("smoke_test.py")
    address = f"{SCHEME}{version.name}/{version.version}"
    command = [sys.executable, "-I", str(script), address]
    where = os.environ | environment()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMOKE_SECONDS, env=where)
    except subprocess.TimeoutExpired:
        return None, [f"no answer within {SMOKE_SECONDS} s"]
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return None, [f"the process ended with {done.returncode}: {said[-1][:300] if said else 'no message'}"]
    return json.loads(done.stdout.splitlines()[-1]), []


def _record(decision: Decision) -> None:
    now = time.time()
    key = f"{TAG}{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}Z"
    version = decision.version
    value = without_secrets(json.dumps(decision.record(), separators=(",", ":")))
    connect().set_model_version_tag(version.name, version.version, key, value)
    if decision.promoted and decision.leaks:
        record_allowed(version, decision.leaks, str(decision.terms.allow_leaky))
    for comparison in decision.comparisons:
        found, address = comparison.candidate, f"{SCHEME}{version.name}/{version.version}"
        log_evaluation(address, found.figures, folder=found.folder)


def decisions(version: Version) -> list[dict[str, Any]]:
    """All decisions about a version, oldest first."""
    return [json.loads(value) for key, value in sorted(version.tags.items()) if key.startswith(TAG)]


def previous_champion(name: str = MODEL_NAME) -> tuple[Reign, Version, tuple[str, ...]]:
    """The state that a rollback would end, the version that it would bring back, and that one's own history.

    Raises:
        UserError: there is no champion, or none before it.
    """
    reign = Champions(name).current()
    if reign.champion is None:
        raise UserError(f"model {name!r} has no {CHAMPION}: promote one first")
    there = {v.version for v in versions(name)}
    history = [v for v in reign.history if v in there]  # one that was deleted cannot come back
    if not history:
        raise UserError(f"{name} version {reign.champion} is the first {CHAMPION}: there is none to go back to")
    return reign, find_version(f"{name}/{history[-1]}"), tuple(history[:-1])


def rollback(name: str = MODEL_NAME) -> tuple[Version, Version]:
    """Makes the previous champion the champion again; returns (the one before the rollback, the one after).

    Raises:
        UserError: there is no champion, or none before it, or another decision came first.
    """
    reign, target, history = previous_champion(name)
    now = find_version(f"{name}/{reign.champion}")
    facts = {"decision": {"decision": "rolled back", "from": now.version}}
    if Champions(name).append(reign, target.version, history, **facts) is None:
        raise UserError(f"another decision about {name} came first: look at `mail-ris models list`, then decide again")
    return now, target


def champion(name: str = MODEL_NAME) -> Version | None:
    """The champion, None if there is none."""
    return next((v for v in versions(name) if CHAMPION in v.aliases), None)
