"""Texts that others chose, as a terminal and a log may show them."""

__all__ = ["printable", "replaced"]


def printable(text: str) -> str:
    """Return the text with escapes in the place of characters that would control a terminal."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def replaced(text: str, keep: str = "") -> str:
    """Return the text with U+FFFD in the place of characters that would control a terminal, but for those to keep."""
    return "".join(sign if sign.isprintable() or sign in keep else "\ufffd" for sign in text)
