"""Reports for people: `view(report, terminal)` is a rich renderable. One file per help panel."""

from llamainspect.render.text import inspect as _inspect  # noqa: F401  registers its views
from llamainspect.render.text.common import view

__all__ = ["view"]
