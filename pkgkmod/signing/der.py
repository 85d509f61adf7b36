"""The little of ASN.1's DER (X.690) that certificates and signatures of modules are written in."""

from __future__ import annotations

from dataclasses import dataclass

INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x02, 0x03, 0x04, 0x05, 0x06
SEQUENCE, SET = 0x30, 0x31


class DerError(ValueError):
    """These bytes are not DER, or not the structure that was expected."""


@dataclass(frozen=True)
class Element:
    """One value: its tag, what is in it, and all of its bytes."""

    tag: int
    content: bytes
    encoded: bytes

    def parts(self, *tags: int, least: int = 0) -> list[Element]:
        """Return the values inside, `least` of them; the first must have these tags. Raise DerError otherwise."""
        found = elements(self.content)
        if [part.tag for part in found[: len(tags)]] != list(tags) or len(found) < least:
            raise DerError("a structure has other parts than expected")
        return found


def elements(data: bytes) -> list[Element]:
    """Return the values that follow each other in `data`; raise DerError if something is left over or missing."""
    found = []
    offset = 0
    while offset < len(data):
        start, end = _extent(data, offset)
        found.append(Element(data[offset], data[start:end], data[offset:end]))
        offset = end
    return found


def element(data: bytes, tag: int) -> Element:
    """Return the only value in `data`, which must have this tag; raise DerError otherwise."""
    found = elements(data)
    if len(found) != 1 or found[0].tag != tag:
        raise DerError("not one structure of the kind expected")
    return found[0]


def _extent(data: bytes, offset: int) -> tuple[int, int]:
    """Return where the content of the value at `offset` begins and ends."""
    if data[offset] & 0x1F == 0x1F:
        raise DerError("a tag of several bytes")
    try:
        length = data[offset + 1]
    except IndexError:
        raise DerError("cut off") from None
    start = offset + 2
    if length == 0x80:
        raise DerError("BER of indefinite length, where DER is expected")
    if length > 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[offset + 2 : start], "big")
    if start + length > len(data):
        raise DerError("cut off")
    return start, start + length


def encode(tag: int, *parts: bytes) -> bytes:
    """Return a value with a tag that holds `parts`, one after the other."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def oid(dotted: str) -> bytes:
    """Return an object identifier, such as `2.5.4.3`, as DER."""
    first, second, *others = map(int, dotted.split("."))
    return encode(OID, *map(_base128, (40 * first + second, *others)))


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | number & 0x7F)
    return bytes(reversed(digits))


def integer(number: int) -> bytes:
    """Return a number that is not negative as DER."""
    return encode(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def number(part: Element) -> int:
    """Return the value of an INTEGER that is not negative; raise DerError otherwise."""
    if part.tag != INTEGER or not part.content or part.content[0] & 0x80:
        raise DerError("not a number")
    return int.from_bytes(part.content, "big")
