"""What MkDocs needs to show the pages at the root of the repository beside those in docs/.

README becomes the site's first page. A link to a source file becomes the file's name: the site holds no sources.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
PAGES["SECURITY.md"] = "SECURITY.md"

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages at the root of the repository."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, ROOT)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turn the links of a page in docs/ to those at the root."""
    return markdown if page.file.generated_by else _relinked(markdown, ROOT / "docs")


def _relinked(text: str, folder: Path) -> str:
    def replace(match: re.Match[str]) -> str:
        words, path, anchor = match[1], match[2], match[3] or ""
        if "://" in path:
            return match[0]
        target = (folder / path).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return f"[{words}]({target.relative_to(ROOT / 'docs')}{anchor})"
        name = str(target.relative_to(ROOT))
        return f"[{words}]({PAGES[name]}{anchor})" if name in PAGES else f"`{name}`"

    return _LINK.sub(replace, text)
