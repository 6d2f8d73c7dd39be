"""What the model cards say, held against values read in them by hand.

The cards are those of meta-llama/llama (branch llama_v1), codellama, llama-models and PurpleLlama;
Code Llama's tokens are also in arXiv 2308.12950, those of Llama 3.1 405B in arXiv 2407.21783.
"""

import re
from datetime import date
from itertools import pairwise

import pytest

from llamainspect.catalog import OFFICIAL_MODELS
from llamainspect.model_cards import CARDS, ModelCard, card_of

IDS = [model.id for model in OFFICIAL_MODELS]
EIGHT = {"English", "German", "French", "Italian", "Portuguese", "Hindi", "Spanish", "Thai"}


def value(cell):
    return cell and cell.value


@pytest.mark.parametrize(
    ("model", "released"),
    [
        ("llama-1-65b", "2023-02-24"),
        ("llama-2-70b-chat", "2023-07-18"),
        ("codellama-34b", "2023-08-24"),
        ("codellama-70b-instruct", "2024-01-29"),
        ("llama-3-8b", "2024-04-18"),
        ("llama-3.1-405b:fp8", "2024-07-23"),
        ("llama-3.2-1b", "2024-09-25"),
        ("llama-3.2-90b-vision", "2024-09-25"),
        ("llama-3.3-70b-instruct", "2024-12-06"),
        ("llama-4-scout-17b-16e", "2025-04-05"),
    ],
)
def test_release_dates(model, released):
    assert value(card_of(model).released) == released


@pytest.mark.parametrize(
    ("model", "bound", "tokens"),
    [
        ("llama-1-7b", "", 1_000_000_000_000),
        ("llama-1-13b", "", 1_000_000_000_000),
        ("llama-1-30b", "", 1_400_000_000_000),
        ("llama-1-65b", "", 1_400_000_000_000),
        ("llama-2-13b", "", 2_000_000_000_000),
        ("codellama-7b-instruct", "", 2_500_000_000_000),
        ("codellama-34b-python", "", 2_600_000_000_000),
        ("codellama-70b", "", 3_000_000_000_000),
        ("llama-3-70b", "more than", 15_000_000_000_000),
        ("llama-3.1-8b-instruct", "more than", 15_000_000_000_000),
        ("llama-3.1-405b:bf16-mp16", "", 15_600_000_000_000),
        ("llama-3.2-3b", "up to", 9_000_000_000_000),
        ("llama-3.3-70b-instruct", "more than", 15_000_000_000_000),
        ("llama-4-scout-17b-16e-instruct", "about", 40_000_000_000_000),
        ("llama-4-maverick-17b-128e", "about", 22_000_000_000_000),
    ],
)
def test_training_tokens(model, bound, tokens):
    cell = card_of(model).training_tokens
    assert (cell.bound, cell.value) == (bound, tokens)


@pytest.mark.parametrize(
    ("model", "cutoff"),
    [
        ("llama-2-7b", "2022-09"),
        ("llama-3-8b-instruct", "2023-03"),
        ("llama-3-70b-instruct", "2023-12"),
        ("llama-3.1-405b-instruct:bf16-mp8", "2023-12"),
        ("llama-3.2-3b-instruct", "2023-12"),
        ("llama-3.2-11b-vision-instruct", "2023-12"),
        ("llama-3.3-70b-instruct", "2023-12"),
        ("llama-4-maverick-17b-128e-instruct:fp8", "2024-08"),
    ],
)
def test_knowledge_cutoffs(model, cutoff):
    assert value(card_of(model).knowledge_cutoff) == cutoff


@pytest.mark.parametrize(
    ("model", "languages"),
    [
        ("llama-2-7b", {"English"}),
        ("codellama-13b-python", {"English"}),
        ("llama-3-70b", {"English"}),
        ("llama-3.1-70b", EIGHT),
        ("llama-3.2-1b-instruct", EIGHT),
        ("llama-3.2-90b-vision-instruct", EIGHT),
        ("llama-3.3-70b-instruct", EIGHT),
        ("llama-guard-3-1b:int4", EIGHT),
        ("llama-guard-3-8b:int8", EIGHT),
        ("llama-guard-4-12b", EIGHT),
        ("llama-4-scout-17b-16e", EIGHT | {"Arabic", "Indonesian", "Tagalog", "Vietnamese"}),
    ],
)
def test_languages(model, languages):
    assert set(value(card_of(model).languages)) == languages


def test_languages_stand_in_the_order_of_the_card():
    assert value(card_of("llama-3.1-8b").languages)[:3] == ("English", "German", "French")
    assert value(card_of("llama-guard-3-8b").languages)[:3] == ("English", "French", "German")
    assert value(card_of("llama-4-scout-17b-16e").languages)[:2] == ("Arabic", "English")


@pytest.mark.parametrize(
    ("model", "cell"),
    [
        ("llama-1-7b", "knowledge_cutoff"),
        ("llama-1-7b", "languages"),  # 20 in the training data, none supported
        ("codellama-7b", "knowledge_cutoff"),
        ("codellama-70b-python", "training_tokens"),  # the paper contradicts itself
        ("llama-3.2-11b-vision", "training_tokens"),  # pairs of image and text
        ("llama-guard-3-8b", "released"),
        ("llama-guard-3-11b-vision", "languages"),
    ],
)
def test_what_no_source_says_is_blank(model, cell):
    assert getattr(card_of(model), cell) is None


def test_the_int4_forms_of_llama_3_2_have_a_date_of_their_own():
    plain, form = map(card_of, ("llama-3.2-1b-instruct", "llama-3.2-1b-instruct:int4-qlora-eo8"))
    assert value(form.released) == "2024-10-24"
    assert form._replace(released=None) == plain._replace(released=None)


@pytest.mark.parametrize("model", IDS)
def test_every_model_of_the_catalog_has_a_card(model):
    assert isinstance(card_of(model), ModelCard)


def test_no_card_is_of_an_unknown_model_or_stands_twice():
    named = [model for models in CARDS for model in models]
    assert len(named) == len(set(named))
    assert set(named) <= {*IDS, *(model.partition(":")[0] for model in IDS)}


def test_a_model_that_is_not_official_has_no_card():
    with pytest.raises(KeyError):
        card_of("llama-5-8b")


@pytest.mark.parametrize("model", IDS)
def test_every_filled_cell_has_a_source(model):
    for cell in filter(None, card_of(model)):
        assert re.match(r"meta-llama/[\w-]+ \w|arXiv \d{4}\.\d{5} |ai\.meta\.com/", cell.source)
        assert cell.value


@pytest.mark.parametrize("model", [model for model in IDS if "guard" in model])
def test_what_is_said_of_a_guard_is_from_the_card_of_a_guard(model):
    for cell in filter(None, card_of(model)):
        assert cell.source.startswith("meta-llama/PurpleLlama Llama-Guard")


@pytest.mark.parametrize("model", IDS)
def test_dates_are_dates_and_knowledge_ends_before_the_release(model):
    released, _, cutoff, _ = map(value, card_of(model))
    if released:
        assert date.fromisoformat(released if len(released) == 10 else f"{released}-01")
    if cutoff:
        assert date.fromisoformat(f"{cutoff}-01") < date.fromisoformat(released)


def test_generations_were_released_one_after_another():
    generations = [
        "llama-1-7b", "llama-2-7b", "codellama-7b", "codellama-70b", "llama-3-8b", "llama-3.1-8b",
        "llama-3.2-1b", "llama-3.2-1b-instruct:int4-qlora-eo8", "llama-3.3-70b-instruct",
        "llama-4-scout-17b-16e",
    ]  # fmt: skip
    dates = [value(card_of(model).released) for model in generations]
    assert all(earlier < later for earlier, later in pairwise(dates))


def test_knowledge_never_ends_earlier_in_a_later_generation():
    generations = ["2-7b", "3-8b", "3-70b", "3.1-8b", "3.3-70b-instruct", "4-scout-17b-16e"]
    cutoffs = [value(card_of(f"llama-{model}").knowledge_cutoff) for model in generations]
    assert cutoffs == sorted(cutoffs)
