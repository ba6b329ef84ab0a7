"""HTML for people: elements that escape whatever they are given, and what all pages about SBCs look like.

A page is one document with no script and nothing from elsewhere. Every state has a word, a shape and a pattern of its
own: colour only repeats what can be read without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote
from xml.etree.ElementTree import Element, tostring

from sbc_probe.findings import Cause, Finding, State
from sbc_probe.style import STYLE

Child: TypeAlias = "Element | str | Iterable[Child] | None"

# What is no character of a text, and what turns the direction of the words around it.
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is shown: its class in the style, its sign in plain text, its shape (24 by 24), colour on a tab."""

    name: str
    sign: str
    shape: tuple[tuple[str, dict[str, str]], ...]
    colour: str


FILLED, STROKED = {"class": "ground"}, {"class": "sign"}
LOOKS = {
    look.name: look
    for look in (
        Look(
            "proven",
            "✔",
            (
                ("circle", {"cx": "12", "cy": "12", "r": "11", **FILLED}),
                ("path", {"d": "M6.5 12.5l4 4 7-8", **STROKED}),
            ),
            "#11703a",
        ),
        Look(
            "failed",
            "✘",
            (
                ("path", {"d": "M7.4 1h9.2L23 7.4v9.2L16.6 23H7.4L1 16.6V7.4z", **FILLED}),
                ("path", {"d": "M7.5 7.5l9 9m0-9l-9 9", **STROKED}),
            ),
            "#b3191f",
        ),
        Look(
            "flapping",
            "≈",
            (("path", {"d": "M12 1l11.5 21H.5z", **FILLED}), ("path", {"d": "M6 17l3-5 3 5 3-5 3 5", **STROKED})),
            "#9a4a00",
        ),
        Look(
            "waiting",
            "…",
            (
                ("path", {"d": "M12 .5L23.5 12 12 23.5.5 12z", **FILLED}),
                ("path", {"d": "M7 12h.01M12 12h.01M17 12h.01", **STROKED}),
            ),
            "#1257b0",
        ),
        Look(
            "unknown",
            "?",
            (
                ("rect", {"x": "1", "y": "1", "width": "22", "height": "22", "rx": "4", **FILLED}),
                ("path", {"d": "M8.5 9.2a3.6 3.6 0 1 1 5.3 3.2c-1.3.8-1.8 1.3-1.8 2.6m0 3.2h.01", **STROKED}),
            ),
            "#57606a",
        ),
    )
}


def look_of(state: State, finding: Finding | None = None) -> Look:
    """How a state is shown, given what it rests on."""
    flapping = finding is not None and finding.cause is Cause.PROXY_FLAPPING
    return LOOKS["flapping" if flapping else state.value]


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element. `class_` stands for class, `aria_label` for aria-label; attributes and children of None are left out.

    Whatever a string holds, it remains a text or a value.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), fit(f"{value:g}" if isinstance(value, float) else str(value)))
    for child in _flat(children):
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + fit(child)
        else:
            made.text = (made.text or "") + fit(child)
    return made


def _flat(children: Iterable[Child]) -> Iterable[Element | str]:
    for child in children:
        if isinstance(child, (Element, str)):
            yield child
        elif child is not None:
            yield from _flat(child)


def fit(text: str) -> str:
    """The text without what no browser should be given."""
    return UNFIT.sub("\N{REPLACEMENT CHARACTER}", text)


def prose(text: str) -> list[Child]:
    """Words in which commands stand between backticks, as in Markdown."""
    return [element("code", part) if place % 2 else part for place, part in enumerate(text.split("`"))]


def symbol(look: Look, size: str = "") -> Element:
    """The shape of a state; the words beside it say the same."""
    return element(
        "svg",
        element("use", href=f"#is-{look.name}"),
        class_=f"symbol {look.name} {size}".rstrip(),
        viewBox="0 0 24 24",
        aria_hidden="true",
    )


def chip(look: Look, words: str) -> Element:
    """A state in a few words, with its shape."""
    return element("span", symbol(look), words, class_=f"chip {look.name}")


def _shape(look: Look) -> list[Element]:
    return [element(tag, **attributes) for tag, attributes in look.shape]


def _definitions() -> Element:
    """Shapes and patterns that a document draws again and again."""
    patterns = {
        "failed": (6, "M-1 1l2-2M0 6l6-6M5 7l2-2"),
        "flapping": (8, "M0 6l2-4 4 8 2-4M0 -2l2-4 4 8 2-4M0 14l2-4 4 8 2-4"),
        "waiting": (6, "M3 3h.01"),
        "unknown": (5, "M0 2.5h5"),
    }
    return element(
        "svg",
        element(
            "defs",
            [element("symbol", _shape(look), id=f"is-{name}", viewBox="0 0 24 24") for name, look in LOOKS.items()],
            [
                element(
                    "pattern",
                    element("rect", width=size, height=size, class_="ground"),
                    element("path", d=path, class_="sign"),
                    id=f"as-{name}",
                    class_=name,
                    width=size,
                    height=size,
                    patternUnits="userSpaceOnUse",
                )
                for name, (size, path) in patterns.items()
            ],
        ),
        class_="definitions",
        width=0,
        height=0,
        aria_hidden="true",
    )


def _icon(look: Look) -> str:
    drawn = element(
        "svg",
        element("style", f".ground{{fill:{look.colour}}}.sign{{fill:none;stroke:#fff;stroke-width:3}}"),
        _shape(look),
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 24 24",
    )
    return "data:image/svg+xml," + quote(tostring(drawn, encoding="unicode"), safe="/:=' ")


def document(look: Look, title: str, *body: Child, refresh: int | None = None) -> str:
    """A whole page, its state first in the title; `refresh`: how often (s) a browser asks for it anew."""
    root = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("title", f"{look.sign} {title}"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("meta", http_equiv="refresh", content=str(refresh)) if refresh else None,
            element("link", rel="icon", href=_icon(look)),
            element("style", STYLE),
        ),
        element("body", _definitions(), body),
        lang="en",
    )
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
