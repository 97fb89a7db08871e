"""A validation split for data without one: a share of the training split."""

import hashlib
from collections.abc import Mapping, Sequence

from show_attend_tell.data.records import Record, Records

SEED = 0


def drawn(image_id: str) -> float:
    """A number in [0, 1) that the hash of an image's name draws."""
    return (
        int.from_bytes(hashlib.sha256(f"{SEED} {image_id}".encode(errors="surrogatepass")).digest())
        / 2**256
    )


def shared_out(
    keys: Mapping[str, str], shares: Mapping[str, float], rest: str
) -> dict[str, list[str]]:
    """Some shares of the images for other splits, and the rest; splits without an image are absent.

    An image stays in its split when others are added or removed. Of more images than there are
    shares, each split has one at least.

    Args:
      keys: what is hashed, by the name of each image.
      shares: probability of each split, in (0, 1).
      rest: the split of all others.
    """
    numbers = {name: drawn(key) for name, key in keys.items()}
    parts: dict[str, list[str]] = {split: [] for split in (rest, *shares)}
    for name, number in numbers.items():
        upper, chosen = 0.0, rest
        for split, share in shares.items():
            if upper <= number < upper + share:
                chosen = split
            upper += share
        parts[chosen].append(name)
    if not all(parts.values()):  # few images: those with the smallest numbers, one each
        order = sorted(numbers, key=numbers.__getitem__)
        held = 1 if len(order) > len(shares) else 0
        for number, split in enumerate(shares):
            parts[split] = order[number * held : (number + 1) * held]
        parts[rest] = order[len(shares) * held :]
    return {split: part for split, part in parts.items() if part}


def held_out(image_ids: Sequence[str], share: float) -> list[int]:
    """Indices of the images held out of training, in order.

    An image stays where it is when others are added or removed. Of two images or more, one at
    least is held out and one is not.

    Args:
      image_ids: of the training split.
      share: probability that an image is held out, in (0, 1).
    """
    numbers = [drawn(image_id) for image_id in image_ids]
    held = [index for index, number in enumerate(numbers) if number < share]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    if not held:
        return order[:1] if len(order) > 1 else []
    return sorted(order[:-1]) if len(held) == len(order) else held


class Picked:
    """Some of the records of a split, in place of all; can be pickled.

    Attributes: as in `Records`.
    """

    def __init__(self, records: Records, numbers: Sequence[int]):
        """Takes the records, and the indices of those to keep."""
        self._records, self._numbers = records, list(numbers)
        self.folder, self.info = records.folder, records.info

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        """Reads a record, 0 <= `index` < len.

        Raises:
          UserError: its file is damaged or missing.
        """
        return self._records[self._numbers[index]]
