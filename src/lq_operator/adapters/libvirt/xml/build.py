"""Small helpers to write and read XML safely: texts that XML cannot carry are refused, the rest is escaped."""

from __future__ import annotations

from typing import Any

from lxml import etree

from lq_operator.core.result import Rejected, Transient

Element = Any  # lxml has no stubs

_PARSER_OPTIONS = {"resolve_entities": False, "no_network": True, "huge_tree": False, "remove_blank_text": True}


def text(value: str, field: str) -> str:
    """The value, if XML and a one-line name can carry it; Rejected naming the field otherwise."""
    for character in value:
        code = ord(character)
        if code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF):
            raise Rejected(f"{field}: character U+{code:04X} is not allowed; remove it", field=field)
    return value


def path(value: str, field: str) -> str:
    """An absolute path without '..' parts; Rejected naming the field otherwise."""
    if not text(value, field).startswith("/") or ".." in value.split("/"):
        raise Rejected(f"{field}: {value!r} must be an absolute path without '..'", field=field)
    return value


def file_name(value: str, field: str) -> str:
    """A name of one file in a pool: not empty, no '/', not '.' or '..', at most 255 bytes."""
    if not text(value, field) or "/" in value or value in (".", ".."):
        raise Rejected(f"{field}: {value!r} must be a file name without '/'", field=field)
    if len(value.encode()) > 255:
        raise Rejected(f"{field}: {value[:40]!r}... is longer than 255 bytes; shorten it", field=field)
    return value


def node(parent: Element | None, tag: str, content: str | None = None, /, **attributes: str | None) -> Element:
    """A new element under parent; attributes that are None are left out; a trailing '_' of a keyword is dropped."""
    made = etree.Element(tag) if parent is None else etree.SubElement(parent, tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_"), text(value, f"{tag}/@{name.rstrip('_')}"))
    if content is not None:
        made.text = text(content, tag)
    return made


def dump(root: Element) -> str:
    """Indented text without an XML declaration, as libvirt takes it."""
    etree.indent(root, space="  ")
    return str(etree.tostring(root, encoding="unicode")) + "\n"


def parse(document: str, what: str) -> Element:
    """The root of a document that a host sent. Transient when it is no XML: a host that talks nonsense is not known."""
    try:
        return etree.fromstring(document.encode(), etree.XMLParser(**_PARSER_OPTIONS))
    except etree.XMLSyntaxError as problem:
        raise Transient(f"{what}: the host sent XML that does not parse ({problem})") from problem


def whole(value: str | None, default: int = 0) -> int:
    """An integer text, the default where there is none."""
    try:
        return int((value or "").strip())
    except ValueError:
        return default


_UNITS = {"": 1, "b": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtpe", start=1):
    _UNITS[_letter] = _UNITS[f"{_letter}ib"] = 1024**_power
    _UNITS[f"{_letter}b"] = 1000**_power


def size_bytes(element: Element | None, default_unit: str = "b") -> int:
    """A size element in bytes, by its unit attribute (libvirt: k = KiB, KB = 1000)."""
    if element is None:
        return 0
    unit = (element.get("unit") or default_unit).lower()
    return whole(element.text) * _UNITS.get(unit, 1)
