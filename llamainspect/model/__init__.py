"""What needs torch. Nothing outside this folder imports it, and nothing here is imported early."""

from llamainspect.errors import MissingDependency

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependency(
        "this needs torch, which is not installed; pip install 'llamainspect[torch]'"
    ) from error
except (ImportError, OSError) as error:  # a library that it needs is missing, say
    raise MissingDependency(
        f"this needs torch, and importing it fails ({str(error)[:300]}); install it anew"
    ) from error
