"""Pictures for people: overlays of masks on images, and the gallery page of an evaluation."""

from mail.report.overlay import overlay

__all__ = ["overlay"]
