"""The table of chapters. A new chapter is a row here, a file in pages/ and its texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "pages"


@dataclass(frozen=True)
class Chapter:
    """``slug`` is the path in a link and the key of the title; ``number`` 0 is the Start page."""

    number: int
    slug: str

    @property
    def file(self) -> Path:
        return PAGES / f"{self.slug}.py"


CHAPTERS = tuple(
    Chapter(number, slug)
    for number, slug in enumerate(
        (
            "start",
            "what-is-moe",
            "experts",
            "router",
            "load-balancing",
            "capacity",
            "vision",
            "parameters",
            "mh-moe",
            "papers",
        )
    )
)


def written() -> tuple[Chapter, ...]:
    """The chapters that have a page file, in order; only these appear in the navigation."""
    return tuple(chapter for chapter in CHAPTERS if chapter.file.is_file())


def after(slug: str) -> Chapter | None:
    """The next written chapter, or None after the last one."""
    chapters = written()
    slugs = [chapter.slug for chapter in chapters]
    position = slugs.index(slug) + 1
    return chapters[position] if position < len(chapters) else None
