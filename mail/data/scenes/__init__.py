"""Generated scenes with referring expressions: a data set that needs no download.

Scenes hold 3-8 overlapping textured objects on cluttered backgrounds; every referent has another object of its kind in
sight, and every expression names exactly one object (`meaning.resolves`). Where `SceneConfig.targets` is many, half of
them name several objects or none, as exactly (`groups.named`). Scene number `index` of data set `seed` is the same
whoever generates it, in whatever order.

    write_published_layout("scenes", images=3000, seed=0)     # then read it like RefCOCO
"""

from mail.data.scenes.layout import write_published_layout
from mail.data.scenes.scene import SceneConfig, generate_scene

__all__ = ["SceneConfig", "generate_scene", "write_published_layout"]
