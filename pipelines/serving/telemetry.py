"""What a service tells Ray's Prometheus endpoint: `ray_mail_serve_*`, beside Ray Serve's own series.

Ray exports them from each node's metrics port; `GET /metrics` of the service passes on those of the node that answers.
"""

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


class OfModel:
    """Of a replica that holds a network."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "mail_serve_part_seconds",
            "Seconds of a batch, by part: decode, propose, encode, words, masks",
            boundaries=SECONDS,
            tag_keys=("part",),
        )
        self._photos = Counter("mail_serve_photos_total", "Photos asked about, by cached or new", tag_keys=("cache",))
        self._sentences = Counter("mail_serve_sentences_total", "Sentences answered, by version", tag_keys=("version",))
        self._batch = Histogram("mail_serve_batch_requests", "Requests of a batch", boundaries=[1, 2, 4, 8, 16, 32, 64])
        self._waiting = Gauge("mail_serve_waiting_requests", "Requests that wait in a replica for the next batch")
        self._cache = Gauge("mail_serve_cache_bytes", "Memory of the photos that are kept")
        self._swaps = Counter("mail_serve_swaps_total", "Versions that took over")
        self._trouble = Gauge("mail_serve_trouble", "1 while what the address names is not what answers")

    def part(self, part: str, seconds: float) -> None:
        self._seconds.observe(seconds, tags={"part": part})

    def batch(self, cached: int, new: int, sentences: int, version: str | None) -> None:
        for kind, count in (("cached", cached), ("new", new)):
            if count:
                self._photos.inc(count, tags={"cache": kind})
        if sentences:
            self._sentences.inc(sentences, tags={"version": version or "folder"})
        if cached + new:
            self._batch.observe(cached + new)

    def state(self, waiting: int, cache_bytes: float, trouble: bool) -> None:
        self._waiting.set(waiting)
        self._cache.set(cache_bytes)
        self._trouble.set(int(trouble))

    def swap(self) -> None:
        self._swaps.inc()


class OfHttp:
    """Of a replica that answers HTTP."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "mail_serve_request_seconds", "Seconds of a request, by route", boundaries=SECONDS, tag_keys=("route",)
        )
        self._refused = Counter("mail_serve_refusals_total", "Requests turned away, by reason", tag_keys=("reason",))
        self._corrections = Counter("mail_serve_corrections_total", "Corrections kept")

    def request(self, route: str, seconds: float) -> None:
        self._seconds.observe(seconds, tags={"route": route})

    def refusal(self, reason: str) -> None:
        self._refused.inc(tags={"reason": reason})

    def correction(self) -> None:
        self._corrections.inc()
