"""What goes wrong with bytes on their way: damage, and odd cuts."""


def shuffled(rng, parts, others):
    """Return the parts, some repeated, dropped or exchanged, or with `others` between them."""
    parts = list(parts)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts))
        match rng.randrange(4):
            case 0:
                parts.insert(rng.randrange(len(parts) + 1), parts[at])
            case 1 if len(parts) > 1:
                del parts[at]
            case 2:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case _:
                parts.insert(at, b"".join(others(rng)[:2]))
    return parts


def damaged(rng, data):
    """Return the bytes with a few of them changed."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice(b"\0\r\n :;,/\x7f\x80\xff0")
            case 2:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 9, 100)))
            case 3:
                del data[at : at + rng.choice((1, 2, 9, 100))]
            case 4:
                data[at:at] = data[at : at + rng.choice((1, 9, 60))] * rng.choice((1, 2, 50))
            case 5 if rng.random() < 0.3:
                del data[at:]
    return bytes(data)


def cut(rng, data):
    """Return the bytes in pieces, cut at any point."""
    if len(data) < 60 and rng.random() < 0.1:
        return [data[at : at + 1] for at in range(len(data))]
    points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 5))))
    return [
        data[start:end]
        for start, end in zip([0, *points], [*points, len(data)], strict=True)
        if end > start
    ]
