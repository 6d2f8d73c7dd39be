"""What Meta's model cards say of each official model: release, tokens, cutoff, languages.

Each cell names its source: a card (or another file, or a commit) in a repository of Meta, a paper
by its arXiv number, or Meta's blog. Where two of them differ, the comment beside the row says so.
What none of them says is blank, as most cells of Llama Guard are. A form such as ":fp8" has the
card of the model it is a form of, unless it stands in the table itself.
"""

from typing import Generic, Literal, NamedTuple, TypeVar

Value = TypeVar("Value")
Bound = Literal["", "about", "more than", "up to"]


class Published(NamedTuple, Generic[Value]):
    """One cell. `bound` is what the source says of a number beyond its value."""

    value: Value
    source: str
    bound: Bound = ""


class ModelCard(NamedTuple):
    """What is published about one model; a cell is None where nothing is."""

    released: Published[str] | None = None  # ISO date
    training_tokens: Published[int] | None = None  # pretraining alone, without any fine-tuning
    knowledge_cutoff: Published[str] | None = None  # ISO month, of the pretraining data
    languages: Published[tuple[str, ...]] | None = None  # officially supported, as listed


def card_of(id: str) -> ModelCard:
    """The card of an official model, by its id in the catalog; KeyError for any other id."""
    return _CARDS[id if id in _CARDS else id.partition(":")[0]]


def _card(
    source: str,
    released: str | None = None,
    tokens: int | None = None,
    bound: Bound = "",
    cutoff: str | None = None,
    languages: tuple[str, ...] = (),
) -> ModelCard:
    """A card all of whose cells have one source."""
    return ModelCard(
        Published(released, source) if released else None,
        Published(tokens, source, bound) if tokens else None,
        Published(cutoff, source) if cutoff else None,
        Published(languages, source) if languages else None,
    )


def _english(source: str) -> Published[tuple[str, ...]]:
    """Of cards that have no list, but call every use in another language out of scope."""
    return Published(("English",), f"{source}, Intended Use")


_BILLION = 10**9
_TRILLION = 10**12
_EIGHT = ("English", "German", "French", "Italian", "Portuguese", "Hindi", "Spanish", "Thai")
_GUARD_EIGHT = ("English", "French", "German", "Hindi", "Italian", "Portuguese", "Spanish", "Thai")
_TWELVE = (
    "Arabic", "English", "French", "German", "Hindi", "Indonesian", "Italian", "Portuguese",
    "Spanish", "Tagalog", "Thai", "Vietnamese",
)  # fmt: skip

# --- sources --------------------------------------------------------------------------------------

_MODELS = "meta-llama/llama-models"
_LAUNCHES = f"{_MODELS} README.md"
_LLAMA_1_CARD = "meta-llama/llama MODEL_CARD.md of branch llama_v1"
_LLAMA_2_CARD = f"{_MODELS} models/llama2/MODEL_CARD.md"
_CODE_LLAMA_CARD = "meta-llama/codellama MODEL_CARD.md"
_LLAMA_3_CARD = f"{_MODELS} models/llama3/MODEL_CARD.md"
_LLAMA_3_1_CARD = f"{_MODELS} models/llama3_1/MODEL_CARD.md"
_LLAMA_3_2_CARD = f"{_MODELS} models/llama3_2/MODEL_CARD.md"
_VISION_CARD = f"{_MODELS} models/llama3_2/MODEL_CARD_VISION.md"
_LLAMA_3_3_CARD = f"{_MODELS} models/llama3_3/MODEL_CARD.md"
_LLAMA_4_CARD = f"{_MODELS} models/llama4/MODEL_CARD.md"
_GUARD_3_1B_CARD = "meta-llama/PurpleLlama Llama-Guard3/1B/MODEL_CARD.md"
_GUARD_3_8B_CARD = "meta-llama/PurpleLlama Llama-Guard3/8B/MODEL_CARD.md"
_GUARD_4_CARD = "meta-llama/PurpleLlama Llama-Guard4/12B/MODEL_CARD.md"
_LLAMA_1_BLOG = "ai.meta.com/blog/large-language-model-llama-meta-ai"
_CODE_LLAMA_PAPER = "arXiv 2308.12950 (v3) sections 2.1 and 3.1.1"
_LLAMA_3_PAPER = "arXiv 2407.21783 section 1"

# --- what the sizes of a generation share ---------------------------------------------------------

# Its card lists the 20 languages of the training data and supports none.
_LLAMA_1 = _card(_LLAMA_1_BLOG, released="2023-02-24")
# Some data of the chat models is more recent than the cutoff, up to July 2023.
_LLAMA_2 = _card(_LLAMA_2_CARD, tokens=2 * _TRILLION, cutoff="2022-09")._replace(
    released=Published("2023-07-18", _LAUNCHES), languages=_english(_LLAMA_2_CARD)
)
_CODE_LLAMA = ModelCard(
    released=Published("2023-08-24", "meta-llama/codellama 427d6ac, its first commit"),
    languages=_english(_CODE_LLAMA_CARD),
)
_CODE_LLAMA_70B = _CODE_LLAMA._replace(
    released=Published("2024-01-29", "meta-llama/codellama 1af62e1, the commit of the 70B release")
)
_LLAMA_3 = _card(
    _LLAMA_3_CARD, released="2024-04-18", tokens=15 * _TRILLION, bound="more than"
)._replace(languages=_english(_LLAMA_3_CARD))
_LLAMA_3_1 = _card(
    _LLAMA_3_1_CARD,
    released="2024-07-23",
    tokens=15 * _TRILLION,  # in its text: about
    bound="more than",
    cutoff="2023-12",
    languages=_EIGHT,
)
# The date on this card is that of its last revision, which added the quantised forms.
_LLAMA_3_2_QUANTISED = _card(
    _LLAMA_3_2_CARD,
    released="2024-10-24",
    tokens=9 * _TRILLION,
    bound="up to",
    cutoff="2023-12",
    languages=_EIGHT,
)
_LLAMA_3_2 = _LLAMA_3_2_QUANTISED._replace(released=Published("2024-09-25", _LAUNCHES))
# Trained on 6 billion pairs of image and text; tokens are not counted.
_VISION = _card(_VISION_CARD, released="2024-09-25", cutoff="2023-12")._replace(
    languages=Published(_EIGHT, f"{_VISION_CARD}, for text; with images English alone")
)
_LLAMA_3_3 = _card(
    _LLAMA_3_3_CARD,
    released="2024-12-06",  # README.md of the repository: 4 December
    tokens=15 * _TRILLION,  # in its text: about
    bound="more than",
    cutoff="2023-12",
    languages=_EIGHT,
)
_LLAMA_4 = _card(_LLAMA_4_CARD, released="2025-04-05", cutoff="2024-08", languages=_TWELVE)

# --- the table ------------------------------------------------------------------------------------

# fmt: off
CARDS: dict[tuple[str, ...], ModelCard] = {
    ("llama-1-7b", "llama-1-13b"):
        _LLAMA_1._replace(training_tokens=Published(1 * _TRILLION, _LLAMA_1_CARD)),
    ("llama-1-30b", "llama-1-65b"):
        _LLAMA_1._replace(training_tokens=Published(1_400 * _BILLION, _LLAMA_1_CARD)),
    ("llama-2-7b", "llama-2-13b", "llama-2-70b",
     "llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat"): _LLAMA_2,
    # Llama 2's 2 trillion, then code, then for Python a mix heavy in it.
    ("codellama-7b", "codellama-13b", "codellama-34b",
     "codellama-7b-instruct", "codellama-13b-instruct", "codellama-34b-instruct"):
        _CODE_LLAMA._replace(
            training_tokens=Published((2_000 + 500) * _BILLION, _CODE_LLAMA_PAPER)),
    ("codellama-7b-python", "codellama-13b-python", "codellama-34b-python"):
        _CODE_LLAMA._replace(
            training_tokens=Published((2_000 + 500 + 100) * _BILLION, _CODE_LLAMA_PAPER)),
    ("codellama-70b",):
        _CODE_LLAMA_70B._replace(
            training_tokens=Published((2_000 + 1_000) * _BILLION, _CODE_LLAMA_PAPER)),
    # Instruct was trained from Python. The paper says 500 billion of code for Python of all sizes,
    # and twice as many for 70B.
    ("codellama-70b-python", "codellama-70b-instruct"): _CODE_LLAMA_70B,
    ("llama-3-8b", "llama-3-8b-instruct"):
        _LLAMA_3._replace(knowledge_cutoff=Published("2023-03", _LLAMA_3_CARD)),
    ("llama-3-70b", "llama-3-70b-instruct"):
        _LLAMA_3._replace(knowledge_cutoff=Published("2023-12", _LLAMA_3_CARD)),
    ("llama-3.1-8b", "llama-3.1-8b-instruct", "llama-3.1-70b", "llama-3.1-70b-instruct"):
        _LLAMA_3_1,
    # The card says more than 15 trillion, as for the others.
    ("llama-3.1-405b", "llama-3.1-405b-instruct"):
        _LLAMA_3_1._replace(training_tokens=Published(15_600 * _BILLION, _LLAMA_3_PAPER)),
    ("llama-3.2-1b", "llama-3.2-1b-instruct", "llama-3.2-3b", "llama-3.2-3b-instruct"): _LLAMA_3_2,
    ("llama-3.2-1b-instruct:int4-spinquant-eo8", "llama-3.2-1b-instruct:int4-qlora-eo8",
     "llama-3.2-3b-instruct:int4-spinquant-eo8", "llama-3.2-3b-instruct:int4-qlora-eo8"):
        _LLAMA_3_2_QUANTISED,
    ("llama-3.2-11b-vision", "llama-3.2-11b-vision-instruct",
     "llama-3.2-90b-vision", "llama-3.2-90b-vision-instruct"): _VISION,
    ("llama-3.3-70b-instruct",): _LLAMA_3_3,
    ("llama-4-scout-17b-16e", "llama-4-scout-17b-16e-instruct"):
        _LLAMA_4._replace(training_tokens=Published(40 * _TRILLION, _LLAMA_4_CARD, "about")),
    ("llama-4-maverick-17b-128e", "llama-4-maverick-17b-128e-instruct"):
        _LLAMA_4._replace(training_tokens=Published(22 * _TRILLION, _LLAMA_4_CARD, "about")),
    ("llama-guard-3-1b",): _card(_GUARD_3_1B_CARD, languages=_GUARD_EIGHT),
    ("llama-guard-3-8b",): _card(_GUARD_3_8B_CARD, languages=_GUARD_EIGHT),
    # It supports those of Llama Guard 3-8B.
    ("llama-guard-4-12b",): _card(_GUARD_4_CARD, languages=_GUARD_EIGHT),
    # Cards without any of this; that of 11b-vision calls it optimised for English.
    ("llama-guard-1-7b", "llama-guard-2-8b", "llama-guard-3-11b-vision"): ModelCard(),
    ("mini-llama-110m",): ModelCard(),  # an example, which has no card
}
# fmt: on

_CARDS = {id: card for ids, card in CARDS.items() for id in ids}
