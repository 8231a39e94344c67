"""X keysyms, as RFB clients send them, to Linux key codes of a US keyboard, as guests are told them. Pure.

A keysym that no key of a US keyboard makes cannot be typed this way; the guest's own layout decides what a key means.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHIFT_L, CONTROL_L, ALT_L = 42, 29, 56

_ROWS = (  # (first key code, unshifted, shifted), input-event-codes.h
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
CHARACTERS: dict[int, tuple[int, bool]] = {ord(" "): (57, False)}
"""Keysym of a character (its Latin-1 code) -> (key code, needs shift)."""
for _first, _plain, _shifted in _ROWS:
    for _at, (_low, _high) in enumerate(zip(_plain, _shifted, strict=True)):
        CHARACTERS[ord(_low)] = (_first + _at, False)
        CHARACTERS[ord(_high)] = (_first + _at, True)

MODIFIERS = {
    0xFFE1: 42, 0xFFE2: 54,  # Shift
    0xFFE3: 29, 0xFFE4: 97,  # Control
    0xFFE9: 56, 0xFFEA: 100, 0xFE03: 100,  # Alt, AltGr
    0xFFE7: 56, 0xFFE8: 100,  # Meta, which viewers use for Alt
    0xFFEB: 125, 0xFFEC: 126,  # Super
}  # fmt: skip
KEYS = {
    0xFF08: 14, 0xFF09: 15, 0xFE20: 15, 0xFF0D: 28, 0xFF1B: 1, 0xFF13: 119, 0xFF14: 70, 0xFF61: 99, 0xFF67: 127,
    0xFFFF: 111, 0xFF63: 110, 0xFF50: 102, 0xFF57: 107, 0xFF55: 104, 0xFF56: 109,
    0xFF51: 105, 0xFF52: 103, 0xFF53: 106, 0xFF54: 108,  # arrows
    0xFFE5: 58, 0xFF7F: 69,  # CapsLock, NumLock
    **{0xFFBE + at: 59 + at for at in range(10)}, 0xFFC8: 87, 0xFFC9: 88,  # F1 to F12
    0xFFB0: 82, 0xFFB1: 79, 0xFFB2: 80, 0xFFB3: 81, 0xFFB4: 75, 0xFFB5: 76, 0xFFB6: 77, 0xFFB7: 71, 0xFFB8: 72,
    0xFFB9: 73, 0xFFAE: 83, 0xFFAA: 55, 0xFFAB: 78, 0xFFAD: 74, 0xFFAF: 98, 0xFF8D: 96,  # key pad
}  # fmt: skip
_SHIFTS = frozenset((42, 54))


@dataclass
class Keyboard:
    """Which modifiers are held. A host is told whole strokes, because libvirt lets every key go again."""

    _held: dict[int, int] = field(default_factory=dict)
    _alone: set[int] = field(default_factory=set)

    def event(self, keysym: int, down: bool) -> tuple[int, ...]:
        """Key codes to press together now; () for none."""
        modifier = MODIFIERS.get(keysym)
        if modifier is not None:
            return self._modifier(keysym, modifier, down)
        if not down:
            return ()
        code, needs_shift = CHARACTERS.get(keysym, (KEYS.get(keysym, 0), False))
        if not code:
            return ()
        self._alone.clear()
        held = list(dict.fromkeys(self._held.values()))
        if needs_shift and not _SHIFTS & set(held):
            held.insert(0, SHIFT_L)
        return (*held, code)

    def _modifier(self, keysym: int, code: int, down: bool) -> tuple[int, ...]:
        if down:
            self._held[keysym] = code
            self._alone.add(keysym)
            return ()
        self._held.pop(keysym, None)
        if keysym in self._alone:  # pressed and let go by itself: it means something then (Super, Alt)
            self._alone.discard(keysym)
            return (code,)
        return ()
