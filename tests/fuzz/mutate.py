"""What is done to a valid file: to its bytes, or to a part of it that is then put back whole."""

from __future__ import annotations

import struct

INTERESTING = (0, 1, 2, 7, 8, 16, 31, 32, 64, 100, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16,
               2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63,
               2**64 - 1)  # fmt: skip


def some_bytes(data, rng, tokens=()):
    """Change a few places; `tokens` are pieces of bytes that mean something in the format."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 10))):
        at = rng.randrange(len(data) + 1)
        upto = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 20, 100, len(data))))
        kind = rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 2:
            form = rng.choice("BHIQ")
            value = rng.choice(INTERESTING) & (2 ** (8 * struct.calcsize(form)) - 1)
            number = struct.pack(rng.choice("<>") + form, value)
            data[at : at + len(number)] = number
        elif kind == 3:
            del data[at:upto]
        elif kind == 4:
            data[at:at] = data[at:upto] * rng.choice((1, 2, 50))
        elif kind == 5:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 6:
            source = rng.randrange(len(data) + 1)
            data[at:upto] = data[source : source + upto - at]
        elif kind == 7 and rng.random() < 0.3:
            del data[at:]
        elif tokens:
            data[at : at if rng.random() < 0.5 else upto] = rng.choice(tokens)
    return bytes(data)


def a_part(data, rng, unpack, pack, tokens=()):
    """Change one part of what `unpack` gives, a list of (name, bytes), and `pack` it again.

    Now and then a part is left out, put in twice or renamed, or the whole is changed as well.
    """
    parts = unpack(data)
    i = rng.randrange(len(parts))
    name, content = parts[i]
    chance = rng.random()
    if chance < 0.04:
        del parts[i]
    elif chance < 0.08:
        parts.append((name, content))
    elif chance < 0.12:
        parts[i] = (rng.choice(parts)[0], content)
    else:
        parts[i] = (name, some_bytes(content, rng, tokens))
    data = pack(parts, rng)
    return some_bytes(data, rng, tokens) if rng.random() < 0.2 else data
