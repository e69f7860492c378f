"""One printable character for every byte, so that text libraries can process bytes.

The alphabet is GPT-2's (Radford et al. 2019). Printable Latin-1 characters represent themselves; other
bytes map to characters from U+0100 on (space is Ġ, newline is Ċ). No character is white space.
"""

from __future__ import annotations

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def _make_alphabet() -> list[str]:
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in _PRINTABLE else next(others)) for byte in range(256)]


#: The character of each byte.
ALPHABET = _make_alphabet()
_BYTE_OF = {character: byte for byte, character in enumerate(ALPHABET)}


def to_characters(data: bytes) -> str:
    """Return bytes as characters of the alphabet."""
    return data.decode("latin-1").translate(ALPHABET)


def to_bytes(characters: str) -> bytes:
    """Return the bytes that the characters represent.

    Raises:
        KeyError: A character is not in the alphabet.
    """
    return bytes([_BYTE_OF[character] for character in characters])
