"""Pictures for people: overlays of masks on images, the gallery page of an evaluation, the page of the demo."""

from mail.report.overlay import overlay

__all__ = ["overlay"]
