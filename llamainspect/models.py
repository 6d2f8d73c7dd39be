"""The official releases as a person asks for them: a table, a part of it, or one card."""

from fnmatch import fnmatchcase

from llamainspect.architecture import active_parameters
from llamainspect.catalog import OFFICIAL_MODELS, OfficialModel, find_by_name
from llamainspect.errors import InvalidRequest
from llamainspect.footprint import ffn_width
from llamainspect.model_cards import card_of
from llamainspect.nearest import nearest
from llamainspect.reports import ModelCatalog, ModelRow

CONFIGURATION = (
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "hidden_dim",
    "vocab_size",
)
COMPUTED = "computed from the configuration"


def list_models(filter: str | None = None) -> ModelCatalog:
    """All releases, those whose id or repository holds `filter` (or fits it, with * and ?), or one.

    A filter that is a model's name ("llama-3.1-8b", "Llama3.1-8B") gives that model alone. Raises
    InvalidRequest, with the nearest names, when there is none.
    """
    rows = _find(filter) if filter is not None else list(OFFICIAL_MODELS)
    return ModelCatalog(
        filter=filter,
        card=filter is not None and len(rows) == 1,
        models=tuple(map(_row, rows)),
        count=len(rows),
    )


def _find(filter: str) -> list[OfficialModel]:
    exact = [row for row in OFFICIAL_MODELS if row.id == filter.lower()]
    if exact:
        return exact
    wanted = filter.lower() if any(mark in filter for mark in "*?[") else f"*{filter.lower()}*"
    named = find_by_name(filter)
    if named is not None and not fnmatchcase(named.id, wanted):
        return [named]  # spelled otherwise than its id; an id with forms means all of them
    rows = [
        row
        for row in OFFICIAL_MODELS
        if any(fnmatchcase(name.lower(), wanted) for name in (row.id, row.repository or ""))
    ]
    if not rows:
        near = nearest(filter, (row.id for row in OFFICIAL_MODELS))
        raise InvalidRequest(
            f"{filter}: no official model is called so; {near}`llamainspect models` lists all"
        )
    return rows


def _row(model: OfficialModel) -> ModelRow:
    card = card_of(model.id)
    tokens = card.training_tokens
    values = {
        **{name: model.fields[name] for name in CONFIGURATION},
        "n_kv_heads": model.unique_kv_heads,
        "hidden_dim": ffn_width(model.config),
        "context_length": model.context_length,
        "shards": model.shards,
        "parameters": model.params_unique or model.params_total,
        "active_parameters": active_parameters(model.config, model.tied_output),
        "nbytes": model.native_nbytes,
        "released": card.released.value if card.released else None,
        "training_tokens": tokens.value if tokens else None,
        "knowledge_cutoff": card.knowledge_cutoff.value if card.knowledge_cutoff else None,
        "languages": card.languages.value if card.languages else (),
    }
    sources = dict.fromkeys((*CONFIGURATION, "context_length", "shards"), model.source)
    sources |= dict.fromkeys(("parameters", "active_parameters"), COMPUTED)
    sources["nbytes"] = model.size_source
    sources |= {name: cell.source for name, cell in card._asdict().items() if cell is not None}
    return ModelRow(
        id=model.id,
        repository=model.repository,
        tied_output=model.tied_output,
        form=model.form,
        training_tokens_bound=(tokens.bound or None) if tokens else None,
        sources={name: text for name, text in sources.items() if values[name]},
        **values,
    )
