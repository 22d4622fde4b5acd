"""Groups of classes by how many training images they are in: LVIS's, and many / medium / few."""

from collections.abc import Iterable

# Most images of a rare and of a common category.
RARE_MAX = 10
COMMON_MAX = 100
LETTERS = {"r": "rare", "c": "common", "f": "frequent"}

# Image classification: fewest images of a medium class, and most.
MEDIUM_MIN = 20
MEDIUM_MAX = 100


def frequency_letter(image_count: int) -> str:
    """``"r"`` up to 10 training images, ``"c"`` up to 100, ``"f"`` beyond."""
    if image_count <= RARE_MAX:
        return "r"
    return "c" if image_count <= COMMON_MAX else "f"


def frequency_groups(image_count: Iterable[int]) -> dict[str, list[int]]:
    """The class indices that are rare, common and frequent.

    Args:
        image_count: (K,) training images that contain the class.
    """
    groups: dict[str, list[int]] = {name: [] for name in LETTERS.values()}
    for index, count in enumerate(image_count):
        groups[LETTERS[frequency_letter(count)]].append(index)
    return groups


def shot_groups(image_count: Iterable[int]) -> dict[str, list[int]]:
    """The class indices with many (over 100), medium (20 to 100) and few training images.

    Args:
        image_count: (K,) training images of the class.
    """
    groups: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
    for index, count in enumerate(image_count):
        if count > MEDIUM_MAX:
            groups["many"].append(index)
        else:
            groups["medium" if count >= MEDIUM_MIN else "few"].append(index)
    return groups
