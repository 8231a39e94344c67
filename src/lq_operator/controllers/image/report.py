"""What is said about an Image: artefacts, progress, conditions. Written by lq-image alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lq_operator.api.image import Image, ImageArtefact
from lq_operator.controllers.runtime.conditions import Progress, dump_conditions, set_progress
from lq_operator.controllers.runtime.status import report_status
from lq_operator.ports import Clock, Resources

MANAGER = "lq-image"


@dataclass(frozen=True, slots=True)
class ImageReporter:
    """Writes status."""

    resources: Resources
    clock: Clock

    async def artefacts(self, image: Image, entries: Sequence[ImageArtefact]) -> None:
        """Judge the whole by its artefacts."""
        progress, reason, message = judge(entries)
        await self._write(image, entries, progress, reason, message)

    async def say(self, image: Image, progress: Progress, reason: str, message: str) -> None:
        """Something about the whole; the artefacts stay as they are."""
        await self._write(image, image.status.artefacts, progress, reason, message)

    async def _write(
        self, image: Image, entries: Sequence[ImageArtefact], progress: Progress, reason: str, message: str
    ) -> None:
        generation, now = image.metadata.generation, self.clock.now_rfc3339()
        conditions = set_progress(image.status.conditions, progress, reason, message, generation=generation, now=now)
        status = {
            "observedGeneration": generation,
            "conditions": dump_conditions(conditions),
            "artefacts": [entry.model_dump(by_alias=True, mode="json") for entry in entries],
            "progress": overall(entries),
        }
        await report_status(self.resources, image, status, MANAGER)


def judge(entries: Sequence[ImageArtefact]) -> tuple[Progress, str, str]:
    """Declared and nothing failing is Ready: an image that nobody needs yet is not imported, and that is as declared."""
    failed = [entry for entry in entries if entry.phase == "Failed"]
    if failed:
        return Progress.STALLED, "ImportFailed", _texts(failed)
    busy = [entry for entry in entries if entry.phase == "Importing"]
    troubled = [entry for entry in busy if entry.message]
    if troubled:
        return Progress.WORKING, "ImportWaits", _texts(troubled)
    if busy:
        return Progress.WORKING, "Importing", ""
    if not entries:
        return Progress.READY, "NotNeededYet", "imported into a pool when the first Volume there needs it"
    return Progress.READY, "Ready", ""


def overall(entries: Sequence[ImageArtefact]) -> str:
    """The slowest of the running imports; '' where there is nothing to show."""
    busy = [entry.progress_percent for entry in entries if entry.phase == "Importing"]
    if busy:
        return f"{min(busy)}%"
    return "100%" if any(entry.phase == "Ready" for entry in entries) else ""


def _texts(entries: Sequence[ImageArtefact]) -> str:
    """Equal messages once, with where they apply."""
    places: dict[str, list[str]] = {}
    for entry in entries:
        places.setdefault(entry.message, []).append(f"{entry.pool} on {entry.node}" if entry.node else entry.pool)
    return "; ".join(f"{', '.join(there[:5])}: {text}" for text, there in places.items())[:4000]
