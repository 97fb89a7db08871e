"""What a data set is called, and under which terms it may be used and shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Of a data set, for the card of a model that was trained on it.

    Attributes:
      title: its name and source.
      text: its terms in sentences. They bind models, too, as far as the law says so.
      licence: an identifier of the terms for the Hugging Face hub; empty: none is stated.
      generated: whether a program made the data, so that examples may be shown to anyone.
    """

    title: str
    text: str
    licence: str = ""
    generated: bool = False


def of_both(one: Terms, other: Terms) -> Terms:
    """The terms of a data set that joins two, whose licence is the same."""
    assert one.licence == other.licence
    return Terms(f"{one.title} with {other.title}", f"{one.text} {other.text}", one.licence)


# Of data that a user supplies.
OWN = Terms(
    "the uploader's own data",
    "This program does not know their terms: whoever uploaded the model answers for them.",
)
RESEARCH = "non-commercial-research"
