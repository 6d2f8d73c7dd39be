"""What needs torch. Nothing outside this folder imports it, and nothing here is imported early."""

from llamainspect.errors import MissingDependency

try:
    import torch  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        "this needs torch, which is not installed; pip install 'llamainspect[torch]'"
    ) from error
