"""The published data sets that can be prepared: a file in this folder and a line here make one known everywhere."""

from mail.data.sets.definition import DataSet
from mail.data.sets.grefcoco import GREFCOCO
from mail.data.sets.phrasecut import PHRASECUT
from mail.data.sets.refcoco import REFCOCO, REFCOCO_PLUS
from mail.data.sets.refcocog import REFCOCOG
from mail.data.sets.referit import REFERIT

DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        REFCOCO,
        REFCOCO_PLUS,
        REFCOCOG,
        GREFCOCO,
        REFERIT,
        PHRASECUT,
    )
}
