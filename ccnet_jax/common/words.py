"""Numbers in sentences."""


def number_of(count: int, noun: str) -> str:
    """ "1 image", "2 images", "1,000 images"; of nouns whose plural ends in s."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
