"""What may change in a run between two starts for a stated reason, which stays in the run's config and so its lineage.

A loss that is no longer finite is gone on from with another learning rate, from the last good checkpoint.
"""

from typing import Any

from mail.errors import UserError


def apply(before: dict[str, Any], config: dict[str, Any], because: str | None, step: int) -> list[str]:
    """Notes a new learning rate in `config`'s `changes`, after those of the run so far.

    Args:
        before, config: of the run, and as given now. because: the reason. step: from which the run goes on.

    Returns:
        What cannot change because no reason is given.

    Raises:
        UserError: the reason is empty.
    """
    if because is not None and not because.strip():
        raise UserError("--because needs the reason, which is recorded in the model's lineage")
    noted = list(before.get("changes", []))
    was, now = (c.get("recipe", {}).get("learning_rate") for c in (before, config))
    if was != now:
        if because is None:
            return [f"recipe.learning_rate was {was}, is {now} (--because REASON allows it)"]
        noted.append({"step": step, "learning_rate": [was, now], "because": because})
        before["recipe"] = {**before["recipe"], "learning_rate": now}
    if noted:
        config["changes"] = noted
    return []
