"""llamainspect: what is in a Llama checkpoint, and is it what it claims to be?

Public names are imported on first use, so that the command line starts quickly. Nothing else is
imported here, not even from the standard library: Ctrl-C before `main` is met by nobody.
"""

TYPE_CHECKING = False  # as type checkers know it

__version__ = "0.1.0"

# Where each public name lives.
_HOME = {
    "Checkpoint": "llamainspect.checkpoint",
    "CheckpointDiff": "llamainspect.reports",
    "ChecksumReport": "llamainspect.reports",
    "ChoiceEvaluation": "llamainspect.reports",
    "ComputeEstimate": "llamainspect.reports",
    "CorruptFile": "llamainspect.errors",
    "Detokenization": "llamainspect.reports",
    "DiffOptions": "llamainspect.diff",
    "Evaluation": "llamainspect.reports",
    "Explanation": "llamainspect.reports",
    "Finding": "llamainspect.reports",
    "FullReport": "llamainspect.reports",
    "GPUS": "llamainspect.gpus",
    "Generation": "llamainspect.reports",
    "Gpus": "llamainspect.gpus",
    "InvalidRequest": "llamainspect.errors",
    "LlamaInspectError": "llamainspect.errors",
    "LogitsComparison": "llamainspect.reports",
    "LogitsReport": "llamainspect.reports",
    "MemoryEstimate": "llamainspect.reports",
    "Message": "llamainspect.chat",
    "MissingDependency": "llamainspect.errors",
    "MissingFile": "llamainspect.errors",
    "ModelCatalog": "llamainspect.reports",
    "ModelConfig": "llamainspect.config",
    "NonFinite": "llamainspect.errors",
    "NotACheckpoint": "llamainspect.errors",
    "NotEnoughMemory": "llamainspect.errors",
    "OFFICIAL_MODELS": "llamainspect.catalog",
    "Question": "llamainspect.questions",
    "RunOptions": "llamainspect.runs",
    "Sampling": "llamainspect.runs",
    "StatsOptions": "llamainspect.stats",
    "ScanReport": "llamainspect.reports",
    "StatsReport": "llamainspect.reports",
    "Share": "llamainspect.processes",
    "Subject": "llamainspect.subject",
    "Summary": "llamainspect.reports",
    "TensorDetail": "llamainspect.reports",
    "TensorList": "llamainspect.reports",
    "Tokenization": "llamainspect.reports",
    "Tokenizer": "llamainspect.tokenizer",
    "TrainingPlan": "llamainspect.plans",
    "UnsupportedFile": "llamainspect.errors",
    "UnusablePrompt": "llamainspect.errors",
    "Usage": "llamainspect.memory",
    "VocabularyReport": "llamainspect.reports",
    "Weight": "llamainspect.weights",
    "WeightStats": "llamainspect.reports",
    "Work": "llamainspect.compute",
    "build_report": "llamainspect.full_report",
    "compute_stats": "llamainspect.stats",
    "count_parameters": "llamainspect.architecture",
    "describe_vocabulary": "llamainspect.vocab",
    "detokenize": "llamainspect.tokenization",
    "diff_checkpoints": "llamainspect.diff",
    "estimate_compute": "llamainspect.compute",
    "estimate_memory": "llamainspect.memory",
    "evaluate_choices": "llamainspect.model.choices",
    "evaluate_text": "llamainspect.model.evaluate",
    "expected_weights": "llamainspect.architecture",
    "explain_model": "llamainspect.explain",
    "find_subject": "llamainspect.subject",
    "generate_text": "llamainspect.model.generate",
    "list_models": "llamainspect.models",
    "list_tensors": "llamainspect.inventory",
    "load_model": "llamainspect.model.runner",
    "load_tokenizer": "llamainspect.tokenizer",
    "open_checkpoint": "llamainspect.checkpoint",
    "parse_gpus": "llamainspect.gpus",
    "predict_logits": "llamainspect.model.logits",
    "printable": "llamainspect.render.printable",
    "read_questions": "llamainspect.questions",
    "scan_files": "llamainspect.scan",
    "share_here": "llamainspect.processes",
    "show_tensor": "llamainspect.show",
    "stream_stats": "llamainspect.stats",
    "summarize": "llamainspect.summary",
    "to_html": "llamainspect.render.html",
    "to_json": "llamainspect.render.json",
    "tokenize": "llamainspect.tokenization",
    "tokenize_dialogue": "llamainspect.tokenization",
    "verify_against_checkpoint": "llamainspect.model.verify",
    "verify_against_recording": "llamainspect.model.verify",
    "verify_against_transformers": "llamainspect.model.verify",
    "verify_checksums": "llamainspect.checksums",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'llamainspect' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


if TYPE_CHECKING:
    from typing import Any

    from llamainspect.architecture import count_parameters as count_parameters
    from llamainspect.architecture import expected_weights as expected_weights
    from llamainspect.catalog import OFFICIAL_MODELS as OFFICIAL_MODELS
    from llamainspect.chat import Message as Message
    from llamainspect.checkpoint import Checkpoint as Checkpoint
    from llamainspect.checkpoint import open_checkpoint as open_checkpoint
    from llamainspect.checksums import verify_checksums as verify_checksums
    from llamainspect.compute import Work as Work
    from llamainspect.compute import estimate_compute as estimate_compute
    from llamainspect.config import ModelConfig as ModelConfig
    from llamainspect.diff import DiffOptions as DiffOptions
    from llamainspect.diff import diff_checkpoints as diff_checkpoints
    from llamainspect.errors import CorruptFile as CorruptFile
    from llamainspect.errors import InvalidRequest as InvalidRequest
    from llamainspect.errors import LlamaInspectError as LlamaInspectError
    from llamainspect.errors import MissingDependency as MissingDependency
    from llamainspect.errors import MissingFile as MissingFile
    from llamainspect.errors import NonFinite as NonFinite
    from llamainspect.errors import NotACheckpoint as NotACheckpoint
    from llamainspect.errors import NotEnoughMemory as NotEnoughMemory
    from llamainspect.errors import UnsupportedFile as UnsupportedFile
    from llamainspect.errors import UnusablePrompt as UnusablePrompt
    from llamainspect.explain import explain_model as explain_model
    from llamainspect.full_report import build_report as build_report
    from llamainspect.gpus import GPUS as GPUS
    from llamainspect.gpus import Gpus as Gpus
    from llamainspect.gpus import parse_gpus as parse_gpus
    from llamainspect.inventory import list_tensors as list_tensors
    from llamainspect.memory import Usage as Usage
    from llamainspect.memory import estimate_memory as estimate_memory
    from llamainspect.model.choices import evaluate_choices as evaluate_choices
    from llamainspect.model.evaluate import evaluate_text as evaluate_text
    from llamainspect.model.generate import generate_text as generate_text
    from llamainspect.model.logits import predict_logits as predict_logits
    from llamainspect.model.runner import load_model as load_model
    from llamainspect.model.verify import verify_against_checkpoint as verify_against_checkpoint
    from llamainspect.model.verify import verify_against_recording as verify_against_recording
    from llamainspect.model.verify import verify_against_transformers as verify_against_transformers
    from llamainspect.models import list_models as list_models
    from llamainspect.plans import TrainingPlan as TrainingPlan
    from llamainspect.processes import Share as Share
    from llamainspect.processes import share_here as share_here
    from llamainspect.questions import Question as Question
    from llamainspect.questions import read_questions as read_questions
    from llamainspect.render.html import to_html as to_html
    from llamainspect.render.json import to_json as to_json
    from llamainspect.render.printable import printable as printable
    from llamainspect.reports import CheckpointDiff as CheckpointDiff
    from llamainspect.reports import ChecksumReport as ChecksumReport
    from llamainspect.reports import ChoiceEvaluation as ChoiceEvaluation
    from llamainspect.reports import ComputeEstimate as ComputeEstimate
    from llamainspect.reports import Detokenization as Detokenization
    from llamainspect.reports import Evaluation as Evaluation
    from llamainspect.reports import Explanation as Explanation
    from llamainspect.reports import Finding as Finding
    from llamainspect.reports import FullReport as FullReport
    from llamainspect.reports import Generation as Generation
    from llamainspect.reports import LogitsComparison as LogitsComparison
    from llamainspect.reports import LogitsReport as LogitsReport
    from llamainspect.reports import MemoryEstimate as MemoryEstimate
    from llamainspect.reports import ModelCatalog as ModelCatalog
    from llamainspect.reports import ScanReport as ScanReport
    from llamainspect.reports import StatsReport as StatsReport
    from llamainspect.reports import Summary as Summary
    from llamainspect.reports import TensorDetail as TensorDetail
    from llamainspect.reports import TensorList as TensorList
    from llamainspect.reports import Tokenization as Tokenization
    from llamainspect.reports import VocabularyReport as VocabularyReport
    from llamainspect.reports import WeightStats as WeightStats
    from llamainspect.runs import RunOptions as RunOptions
    from llamainspect.runs import Sampling as Sampling
    from llamainspect.scan import scan_files as scan_files
    from llamainspect.show import show_tensor as show_tensor
    from llamainspect.stats import StatsOptions as StatsOptions
    from llamainspect.stats import compute_stats as compute_stats
    from llamainspect.stats import stream_stats as stream_stats
    from llamainspect.subject import Subject as Subject
    from llamainspect.subject import find_subject as find_subject
    from llamainspect.summary import summarize as summarize
    from llamainspect.tokenization import detokenize as detokenize
    from llamainspect.tokenization import tokenize as tokenize
    from llamainspect.tokenization import tokenize_dialogue as tokenize_dialogue
    from llamainspect.tokenizer import Tokenizer as Tokenizer
    from llamainspect.tokenizer import load_tokenizer as load_tokenizer
    from llamainspect.vocab import describe_vocabulary as describe_vocabulary
    from llamainspect.weights import Weight as Weight
