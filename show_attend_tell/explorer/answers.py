"""What the explorer is asked and what it answers: the JSON of its interface.

Positions of a picture run from 0 to 1, down and across. Log-probabilities are in nats. Lists over
places run row by row of the grid and leave out a null place.

Symbols: T steps (words of a caption, `<eos>` included), L places, N pictures.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Sides = tuple[Share, Share, Share, Share]  # ymin, xmin, ymax, xmax


class Asked(BaseModel):
    """A question; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class GivenStep(Asked):
    """One step that the asker decides, in full or in part."""

    word: str | None = Field(None, description="the word to say; null: the model's choice")
    gaze: int | None = Field(
        None, ge=0, lt=2**31, description="the place to read; null: the model's choice"
    )


class CaptionQuestion(Asked):
    """Caption a picture, or translate a sentence, perhaps with some steps given."""

    run: str
    picture: str | None = Field(None, description="id of a picture; null: `text` is given")
    text: str | None = Field(None, max_length=2000, description="a source sentence")
    steps: list[GivenStep] = Field([], max_length=200, description="the first steps, in order")
    masks: list[Sides] = Field([], max_length=20, description="rectangles to paint over in grey")
    beam: int | None = Field(None, ge=1, le=20, description="null: as the run does")
    context: str | None = Field(None, description="what a step reads; null: as for the run")


class GazeQuestion(Asked):
    """What would the next word be, for each place that the step might read?"""

    run: str
    picture: str | None = None
    text: str | None = Field(None, max_length=2000)
    steps: list[GivenStep] = Field([], max_length=200, description="all earlier steps, with words")
    masks: list[Sides] = Field([], max_length=20)
    word: str | None = Field(None, description="to map; null: the likeliest if no gaze is forced")
    context: str | None = Field(None, description="what a step reads; null: as for the run")


class WordChance(BaseModel):
    """A word and its probability."""

    word: str
    p: float


class Step(BaseModel):
    """One step of a caption."""

    word: str
    log_p: float | None = Field(description="log-probability of the word; null: not recorded")
    top: list[WordChance] = Field(description="the five likeliest words; empty: not recorded")
    beta: float = Field(description="the gate")
    location: int = Field(description="the place read, or the one of the largest weight")
    gaze: int | None = Field(description="the place that the asker made it read")
    prior: list[float] = Field(description="alpha before the word is known, (L)")
    null: float = Field(description="share of alpha at the null place")
    entropy: float = Field(description="of alpha, the null place included")
    posterior: list[float] | None = Field(description="given the word, (L); null: none")


class Grid(BaseModel):
    """Where the places are."""

    rows: list[float] = Field(description="centres of the rows")
    columns: list[float] = Field(description="centres of the columns")
    measured: bool = Field(description="whether the centres were measured, not computed")


class Reading(BaseModel):
    """A caption, and what happened at each of its steps."""

    run: str
    text: str
    steps: list[Step] = Field(description="(T)")
    log_prob: float
    score: float = Field(description="what the search ranks by: log_prob / T ** length_penalty")
    finished: bool
    context: str
    hard: bool = Field(description="whether steps read one place")
    grid: Grid
    source: list[str] = Field(description="tokens of the source sentence; empty for a picture")
    cut: bool = Field(False, description="whether the source sentence was too long and was cut")
    seconds: float


class Gaze(BaseModel):
    """The next word's distribution for each place that the step might read."""

    run: str
    word: str = Field(description="the mapped word")
    map: list[float] = Field(description="p(word | place), (L)")
    own: float = Field(description="p(word) without a forced gaze")
    cells: list[list[WordChance]] = Field(description="the five likeliest words, (L)")
    grid: Grid


class NamedBox(BaseModel):
    """Something in a picture that is known to be there."""

    label: str
    sides: Sides


class PictureFacts(BaseModel):
    """A picture that can be asked about."""

    id: str
    name: str
    width: int
    height: int
    references: list[str] = []
    boxes: list[NamedBox] = []
    origin: str = Field(description="split, example or upload")


class RunFacts(BaseModel):
    """A model that can be asked."""

    name: str
    kind: str = Field(description="images or sentences")
    context: str = Field(description="what a step reads unless asked otherwise")
    contexts: list[str] = Field(description="what a step can read")
    hard: bool
    posterior: bool = Field(description="whether it has a map given the word")
    gate: bool = Field(description="whether a gate beta scales what a step reads")
    null_place: bool = Field(description="whether a step may read no place")
    places: int = Field(description="L; 0: as many as the sentence has tokens")
    beam: int | None = Field(description="null: not recorded, as the next two")
    max_length: int | None
    length_penalty: float | None
    vocabulary: int
    step: int = Field(description="the training step of its weights")
    description: str = Field(description="attention and objective in words")


class Session(BaseModel):
    """What this explorer was started with."""

    runs: list[RunFacts]
    examples: list[PictureFacts] = Field(description="pictures to begin with")
    split: str | None = Field(description="name of the split to browse; null: there is none")
    hint: str = Field(default="", description="how to name the data, where there is no split")
    sentences: list[str] = Field(default=[], description="source sentences to begin with")
    live: bool = Field(description="whether there are training runs to watch")
    offline: bool = Field(
        default=False, description="whether this is an exported file: no questions"
    )


class RunSummary(BaseModel):
    """What a run says of one picture of the split."""

    caption: str
    entropy: float = Field(description="mean over the words, nats")
    pointing: float | None = Field(description="share of named things that are pointed at")
    in_box: float | None = Field(description="mean share of alpha in the boxes of named things")
    scores: dict[str, float] = Field(description="of the caption, by metric; empty until known")


class Row(BaseModel):
    """One picture of the split."""

    picture: str
    name: str
    references: list[str]
    runs: dict[str, RunSummary] = Field(description="by run; those that are ready")
    disagreement: float | None = Field(
        description="of the runs' captions: 1 - the mean share of words that two of them in one "
        "language have in common (Jaccard); null without two such"
    )


class Table(BaseModel):
    """The pictures of the split."""

    split: str
    total: int
    ready: int = Field(description="pictures that all runs have captioned")
    message: str = Field("", description="why no more rows will come; empty if all is well")
    rows: list[Row]
