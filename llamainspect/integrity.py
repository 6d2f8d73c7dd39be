"""Whether the bytes of a weight file are those that were saved, told from the file alone.

torch's zip carries a CRC-32 for every storage; a safetensors file carries none, but its header says
which bytes must be there. Damage is told by tensor, layer and range of bytes.
"""

from itertools import groupby
from typing import NamedTuple

from llamainspect.errors import CorruptFile, LlamaInspectError, UnsupportedFile, reason_of
from llamainspect.formats.flipped_bit import find_flipped_bit
from llamainspect.formats.safetensors_header import read_header
from llamainspect.formats.signatures import HEAD_NBYTES, describe_stand_in
from llamainspect.formats.torch_pickle import MAX_PICKLE_NBYTES, Contents, read_pickle
from llamainspect.formats.torch_scan import Salvage, ZipScan, salvage
from llamainspect.formats.torch_zip import (
    LOCAL_SIGN,
    PICKLE,
    STORAGE,
    Record,
    locate_record,
    read_archive,
)
from llamainspect.names import compress, counted, layer_of, listing
from llamainspect.reports import Damage, DamageState
from llamainspect.sources import Source

SAFETENSORS = ".safetensors"
MAX_CHANCE = 0.01  # that other damage looks like a single flipped bit


class Verdict(NamedTuple):
    """What the file says of itself."""

    intact: bool | None  # None: it records nothing to hold its bytes against
    message: str
    damage: tuple[Damage, ...] = ()
    by_sums: bool = False  # told by comparing CRC-32s

    @property
    def flipped_bit(self) -> int | None:
        """The one bit that would explain all damage, where there is one; see `settle`."""
        return self.damage[0].flipped_bit if len(self.damage) == 1 else None


def settle(verdict: Verdict, proof: bool | None) -> Verdict:
    """The verdict with or without its flipped bit.

    `proof`: whether the file has its digest once that bit is flipped back; None: not tried. Without
    a proof it is believed where chance would hardly point to a single bit, in short records.
    """
    if verdict.flipped_bit is None:
        return verdict
    (damage,) = verdict.damage
    byte, bit = divmod(verdict.flipped_bit, 8)
    if proof:
        words = (
            f"one flipped bit did it, bit {bit} of byte {byte:,}: with it flipped back, the file "
            "has its digest"
        )
    elif proof is None and 8 * (damage.end - damage.start) < MAX_CHANCE * 2**32:
        words = f"as one flipped bit leaves it: bit {bit} of byte {byte:,}"
    else:
        return verdict._replace(damage=(damage._replace(flipped_bit=None),))
    return verdict._replace(message=f"{verdict.message}; {words}")


class DeepCheck:
    """Takes the blocks of one weight file in order; `verdict` then says what is wrong with it.

    Where headers alone decide (`needs_bytes` is false), no block is needed.
    """

    def __init__(self, source: Source, file: str) -> None:
        self._archive: _TorchArchive | None = None
        self._early: Verdict | None = None
        nbytes = source.nbytes(file)
        head = source.read(file, 0, min(nbytes, HEAD_NBYTES))
        if stand_in := describe_stand_in(head, nbytes):
            self._early = Verdict(False, stand_in)
            return
        try:
            if file.endswith(SAFETENSORS):
                self._early = _check_safetensors(source, file)
            else:
                self._archive = _TorchArchive(source, file, head.startswith(LOCAL_SIGN))
                self._early = self._archive.early
        except LlamaInspectError as error:
            # A variant that is not read may be in the best of health.
            intact = False if isinstance(error, CorruptFile) else None
            self._early = Verdict(intact, reason_of(error, file))

    @property
    def needs_bytes(self) -> bool:
        """Whether the blocks of the file can tell more than its headers did."""
        return self._early is None

    @property
    def done(self) -> bool:
        """Whether no further block can tell anything."""
        return self._archive is None or self._archive.scan.done

    def update(self, block: memoryview) -> None:
        """The next bytes of the file."""
        if self._archive is not None:
            self._archive.scan.update(block)

    def verdict(self) -> Verdict:
        """What all the blocks said."""
        if self._early is not None:
            return self._early
        assert self._archive is not None
        return self._archive.verdict()


# --- torch's zip ----------------------------------------------------------------------------------


class _TorchArchive:
    """A .pth: its records, the tensors in them, and a scan that compares the sums."""

    scan: ZipScan

    def __init__(self, source: Source, file: str, is_zip: bool) -> None:
        self.source = source
        self.file = file
        self.names: dict[str, list[str]] = {}  # tensors by record
        self.missing: list[Damage] = []  # known to be wrong before a byte of it is read
        self.lost: Salvage | None = None
        self.trouble = ""  # why headers or pickle cannot be followed
        self.early: Verdict | None = None
        try:
            records, end, root = read_archive(source, file)
        except LlamaInspectError as error:
            if not is_zip:
                raise
            self._follow_from_the_front(error)
            return
        self.scan = ZipScan(records, end, root)
        self._hold_against_pickle(records)
        storages = [record for name, record in records.items() if name.startswith(STORAGE)]
        if any(record.nbytes for record in storages) and not any(r.crc32 for r in storages):
            self.early = self._without_sums()

    def _hold_against_pickle(self, records: dict[str, Record]) -> None:
        """Names for the records, and those storages that are not there as they must be."""
        contents = self._read_contents(records)
        if contents is None:
            return
        self._name(contents)
        for ref, nbytes in contents.storages:
            name = f"{STORAGE}{ref.key}"
            record = records.get(name)
            if record is None:
                self.missing.append(self._damage(name, 0, 0, "absent"))
            elif record.nbytes != nbytes:
                start = locate_record(self.source, self.file, name, record)
                self.missing.append(self._damage(name, start, start + record.nbytes, "cut"))

    def _read_contents(self, records: dict[str, Record]) -> Contents | None:
        record = records.get(PICKLE)
        if record is None:
            raise CorruptFile(f"{self.file}: it holds no {PICKLE}: torch.save was interrupted")
        if record.nbytes > MAX_PICKLE_NBYTES:
            raise UnsupportedFile(f"{self.file}: {PICKLE} has {record.nbytes:,} bytes")
        try:
            start = locate_record(self.source, self.file, PICKLE, record)
            return read_pickle(self.source.read(self.file, start, record.nbytes))
        except LlamaInspectError as error:
            self.trouble = reason_of(error, self.file)
            return None  # the scan will tell whether it is damaged

    def _follow_from_the_front(self, error: LlamaInspectError) -> None:
        """Without a directory that can be used: what is left is followed from the first byte."""
        self.trouble = reason_of(error, self.file)
        try:
            found = salvage(self.source, self.file)
        except LlamaInspectError as second:
            # One flipped bit makes a record look compressed or encrypted; two witnesses do not lie.
            if isinstance(error, UnsupportedFile) and isinstance(second, UnsupportedFile):
                raise error from second
            message = f"{self.trouble} ({reason_of(second, self.file)})"
            raise CorruptFile(f"{self.file}: {message}") from second
        self.lost = found
        self._name(found.contents)
        self.scan = ZipScan(found.records, found.end, found.root, found.seams)
        end = self.source.nbytes(self.file)
        self.missing += [
            self._damage(name, *place, "differs") for name, place in found.broken.items()
        ]
        self.missing += [
            self._damage(name, end - there, end, "cut") for name, there in found.cut.items()
        ]
        self.missing += [self._damage(name, end, end, "absent") for name in found.absent]

    def _name(self, contents: Contents) -> None:
        for name, tensor in contents.tensors:
            self.names.setdefault(f"{STORAGE}{tensor.storage.key}", []).append(name)

    def _damage(self, record: str, start: int, end: int, state: DamageState) -> Damage:
        names = tuple(self.names.get(record, ()))
        return Damage(record, names, layer_of(names[0]) if names else None, start, end, state)

    def _without_sums(self) -> Verdict:
        if self.missing:
            return Verdict(False, _places(self.missing), tuple(self.missing))
        return Verdict(None, "no CRC-32 was recorded when it was saved")

    def verdict(self) -> Verdict:
        """After the last block: the sums, what is missing, and what stands between the records."""
        scanned = [record for record in self.scan.scanned if record.nbytes]
        differing = [
            self._damage(record.name, record.start, record.start + record.nbytes, "differs")
            for record in scanned
            if record.state == "differs"
        ]
        if len(differing) == 1 and not self.missing:
            (record,) = (record for record in scanned if record.state == "differs")
            bit = find_flipped_bit(record.recorded, record.found, record.nbytes)
            if bit is not None:
                differing[0] = differing[0]._replace(flipped_bit=8 * record.start + bit)
        damage = (*differing, *self.missing)
        storages = [record for record in scanned if record.name.startswith(STORAGE)]
        intact = counted(sum(record.state == "intact" for record in storages), "storage")
        sound = f"{intact} with the right CRC-32"
        unrecorded = sum(record.state == "unrecorded" for record in storages)
        if self.lost is not None:
            return Verdict(False, self._describe_loss(self.lost, differing, sound), damage, True)
        if damage:
            message = f"damaged: {_places(damage)}; {sound}"
            if any(row.record == PICKLE for row in damage):
                message += f"; {PICKLE} holds the names and shapes, which may be wrong with it"
            return Verdict(False, message, damage, True)
        if self.scan.oddities:
            position, what = self.scan.oddities[0]
            message = (
                f"{sound}; damaged outside of the tensors: {what} (byte {position:,}) is not what "
                "torch writes"
            )
            return Verdict(False, message, by_sums=True)
        if unrecorded:
            message = f"{counted(unrecorded, 'storage')} of {len(storages):,} without a CRC-32"
            return Verdict(None, message)
        if self.trouble:
            message = f"{sound}, but {PICKLE}, which names them, cannot be followed: {self.trouble}"
            return Verdict(True, message, by_sums=True)
        return Verdict(True, sound, by_sums=True)

    def _describe_loss(self, found: Salvage, differing: list[Damage], sound: str) -> str:
        sizes = {f"{STORAGE}{ref.key}": nbytes for ref, nbytes in found.contents.storages}
        lacking = sum(found.absent.values()) + sum(
            sizes[name] - there for name, there in found.cut.items()
        )
        gone = [row for row in self.missing if row.state != "differs"]
        broken = [row for row in self.missing if row.state == "differs"]
        parts = []
        if lacking:
            whole = sum(sizes.values())
            parts += [
                f"cut short: of {whole:,} bytes of tensors {lacking:,} are missing",
                _places(gone),
            ]
        elif found.behind:
            parts.append(
                f"{counted(found.behind, 'byte')} too long: something was appended behind its end"
            )
        for row in broken:
            lost = sizes[row.record] - (row.end - row.start)
            what = "lost from" if lost > 0 else "put into"
            shift = f", {counted(abs(lost), 'byte')} {what} it" if lost else ""
            parts.append(f"damaged: {_places([row])}{shift}")
        if differing:
            parts.append(f"damaged: {_places(differing)}")
        if not parts:
            parts.append(f"all tensors are there, what stands behind them is not: {self.trouble}")
        if found.lost is not None:
            parts.append(f"at byte {found.lost:,} no record begins where one must")
        return "; ".join([*parts, sound])


# --- safetensors ----------------------------------------------------------------------------------


def _check_safetensors(source: Source, file: str) -> Verdict:
    """The header and what it says of the file's length; the format has no checksums."""
    nbytes = source.nbytes(file)
    entries, end, _ = read_header(source, file)
    if end < nbytes:
        message = f"{counted(nbytes - end, 'byte')} longer than its header says"
        return Verdict(False, message)
    if end == nbytes:
        message = (
            f"the header is in order and its {counted(len(entries), 'tensor')} cover the file byte "
            "for byte; the format has no checksums"
        )
        return Verdict(None, message)
    damage = tuple(
        Damage(
            entry.name,
            (entry.name,),
            layer_of(entry.name),
            min(entry.start, nbytes),
            nbytes,
            "cut" if entry.start < nbytes else "absent",
        )
        for entry in entries
        if entry.end > nbytes
    )
    message = f"cut short: {end - nbytes:,} of {end:,} bytes are missing; {_places(damage)}"
    return Verdict(False, message, damage)


# --- words ----------------------------------------------------------------------------------------


def _places(damage: tuple[Damage, ...] | list[Damage]) -> str:
    """Which tensors, and where: "a.weight, bytes 1 to 9; not there at all: b.weight"."""
    texts = []
    for state, group in groupby(damage, key=lambda row: row.state):
        rows = list(group)
        names = listing(compress([name for row in rows for name in row.tensors or (row.record,)]))
        if state == "absent":
            texts.append(f"not there at all: {names}")
        elif state == "cut":
            texts.append(f"cut after {sum(row.end - row.start for row in rows):,} bytes: {names}")
        elif len(rows) == 1:
            texts.append(f"{names}, bytes {rows[0].start:,} to {rows[0].end:,}")
        else:
            texts.append(f"{names}, between bytes {rows[0].start:,} and {rows[-1].end:,}")
    return "; ".join(texts)
