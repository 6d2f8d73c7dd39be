"""What globals do that give a pickle power over the machine: whole modules, and single names.

The list need not be complete: what is not in it is unknown, never harmless. It only tells what is
surely dangerous from what nobody has looked at. Python 2 spelled modules differently, and pickles
of protocols 0 to 2 may use its names: CPython's `_compat_pickle` translates them.
"""

import _compat_pickle

RUNS_COMMANDS = "runs commands"
RUNS_CODE = "runs any code"
REACHES_ALL = "reaches into any module or object"
USES_FILES = "reads, writes or removes files"
USES_NETWORK = "reaches the network"
LOADS_FILES = "loads a pickle or a program from elsewhere"
LOADS_NATIVE = "loads and calls native code"

# Modules with all that lies below them, and single names.
_DANGERS = {
    RUNS_COMMANDS: """
        os posix nt subprocess _posixsubprocess _winapi pty multiprocessing concurrent.futures
        asyncio webbrowser antigravity pip ensurepip venv distutils.spawn setuptools idlelib
        _osx_support _aix_support popen2 platform.popen uuid._get_command_stdout pydoc
        torch.utils.collect_env torch.utils.cpp_extension torch.utils.hipify numpy.distutils
        numpy.f2py torch.distributed.elastic torch.distributed.run torch.distributed.launch
        psutil""",
    RUNS_CODE: """
        builtins.eval builtins.exec builtins.execfile builtins.compile builtins.breakpoint
        builtins.apply builtins.map builtins.filter builtins.type builtins.reload builtins.exit
        builtins.quit builtins.help sys site types code codeop runpy bdb pdb cProfile profile
        timeit trace doctest unittest cgitb rlcompleter threading _thread sched atexit signal gc
        inspect dis py_compile compileall lib2to3 logging.config wsgiref numpy.testing torch.jit
        torch.fx torch._dynamo torch._inductor torch.utils._config_module torch.testing
        torch.distributed.rpc torch.utils.data.datapipes torch.utils.bottleneck cloudpickle
        pandas.eval""",
    REACHES_ALL: """
        builtins.__import__ builtins.__build_class__ builtins.getattr builtins.setattr
        builtins.delattr builtins.hasattr builtins.globals builtins.locals builtins.vars
        builtins.dir builtins.super builtins.property functools operator _operator importlib imp
        _imp _frozen_importlib _frozen_importlib_external pkgutil zipimport pkg_resources
        copyreg.add_extension copyreg.pickle""",
    USES_FILES: """
        builtins.open builtins.file builtins.input builtins.raw_input io _io _pyio codecs.open
        shutil pathlib tempfile fileinput linecache mmap dbm shelve sqlite3 _sqlite3 tarfile
        zipfile gzip bz2 lzma glob posixpath ntpath genericpath distutils fcntl mailbox
        logging.FileHandler logging.handlers torch.save torch.from_file
        torch.storage.UntypedStorage.from_file torch.UntypedStorage.from_file numpy.save
        numpy.savez numpy.savetxt numpy.fromfile numpy.memmap fsspec""",
    USES_NETWORK: """
        socket _socket socketserver ssl http urllib ftplib smtplib smtpd poplib imaplib nntplib
        telnetlib xmlrpc asyncore asynchat httpx requests aiohttp urllib3 torch.hub paramiko
        huggingface_hub""",
    LOADS_FILES: """
        pickle _pickle marshal dill joblib jsonpickle yaml torch.load torch.package
        torch.serialization.load torch.storage._load_from_bytes torch.utils.model_zoo numpy.load
        numpy.loads pandas.read_pickle pandas.io.pickle""",
    LOADS_NATIVE: "ctypes _ctypes cffi _cffi_backend numpy.ctypeslib torch.ops torch._ops torch._C",
}
# Of what stands above, names that ordinary objects have and that do nothing of the kind.
_HARMLESS = """
    io.BytesIO io.StringIO _io.BytesIO _io.StringIO types.SimpleNamespace signal.Signals
    functools.partialmethod pathlib.Path pathlib.PurePath pathlib.PosixPath pathlib.PurePosixPath
    pathlib.WindowsPath pathlib.PureWindowsPath torch._C.Generator torch.jit._pickle.build_intlist
    torch.jit._pickle.build_tensorlist torch.jit._pickle.build_doublelist
    torch.jit._pickle.build_boollist torch.jit._pickle.restore_type_tag
    torch._dynamo.decorators._DimRange
    """.split()  # noqa: SIM905  as the table above
_BY_NAME = {name: effect for effect, names in _DANGERS.items() for name in names.split()}
_MOST_PARTS = 1 + max(name.count(".") for name in _BY_NAME)


def effect_of(module: str, name: str) -> str | None:
    """What a global does that makes it dangerous to load; None for what is merely unknown.

    A dotted name leads from attribute to attribute, as pickle follows it from protocol 4 on, and a
    module may be reached through one that has imported it: `linecache.os.system`.
    """
    module, name = _compat_pickle.NAME_MAPPING.get(
        (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    )
    parts = f"{module}.{name}".split(".")
    if ".".join(parts) in _HARMLESS:
        return None
    inner = range(module.count(".") + 1, len(parts) - 1)  # attributes that may be modules
    for start in (0, *inner):
        for end in range(start + 1, min(start + _MOST_PARTS, len(parts)) + 1):
            reached = ".".join(parts[start:end])
            if effect := _BY_NAME.get(reached) or _BY_NAME.get(reached.removeprefix("_")):
                return effect
    special = any(part.startswith("__") and part.endswith("__") for part in parts[1:])
    return REACHES_ALL if special else None  # `dict.__getattribute__`, `f.__globals__`
