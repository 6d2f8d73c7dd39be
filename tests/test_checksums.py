"""verify-checksums: every status, every source of digests, and what is said of damage."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints import TINY, cut, dense_shapes, random_weights, write_native
from safetensors.torch import save_file

import llamainspect as li
from llamainspect import verify_checksums
from llamainspect.checksums import verifying
from llamainspect.progress import finish

EXAMPLE = Path(__file__).parent.parent / "examples" / "mini-llama"
TOKENIZERS = Path(__file__).parent.parent.parent / "shared" / "tokenizers"
LLAMA_7B_PARAMS = (
    '{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, '
    '"vocab_size": -1}'
)


def digest(path, algorithm="md5"):
    return hashlib.new(algorithm, Path(path).read_bytes()).hexdigest()


def list_all(directory, name="checklist.chk", algorithm="md5", files=None):
    """A list as md5sum or sha256sum writes it."""
    files = files or sorted(path.name for path in directory.iterdir())
    lines = [f"{digest(directory / file, algorithm)}  {file}\n" for file in files]
    (directory / name).write_text("".join(lines))


def flip(path, offset, bit=0):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def storage_of(path, name):
    """(first byte, length) of a tensor's storage: torch for the key, zipfile for the place."""
    tensor = torch.load(path, weights_only=True, mmap=True)[name]
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            lengths = file.read(4)
            start = (
                info.header_offset
                + 30
                + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
            )
            if info.file_size == tensor.untyped_storage().nbytes():
                file.seek(start)
                if file.read(info.file_size) == tensor.view(torch.uint8).numpy().tobytes():
                    return start, info.file_size
    raise AssertionError(name)


def rows(report):
    return {row.file: row for row in report.files}


def statuses(report):
    return {row.file: row.status for row in report.files}


@pytest.fixture
def two(tiny2):
    """Two shards, params.json and a list of them all."""
    list_all(tiny2)
    return tiny2


# --- the healthy ----------------------------------------------------------------------------------


def test_a_checkpoint_as_listed_is_ok(two):
    report = verify_checksums(str(two))
    assert report.ok
    assert statuses(report) == dict.fromkeys(
        ["consolidated.00.pth", "consolidated.01.pth", "params.json"], "ok"
    )
    row = rows(report)["consolidated.01.pth"]
    assert row.algorithm == "md5"
    assert row.expected == row.actual == digest(two / "consolidated.01.pth")
    assert row.origin == "checklist.chk, line 2"
    assert row.nbytes == (two / "consolidated.01.pth").stat().st_size
    assert report.conclusion == "3 of 3 digests agree"
    assert report.findings == ()


def test_all_native_forms_verify_with_and_without_deep(native_path):
    list_all(native_path, "SHA256SUMS", "sha256")
    for deep in (False, True):
        report = verify_checksums(str(native_path), deep=deep)
        assert report.ok
        assert {row.algorithm for row in report.files} == {"sha256"}
        messages = [row.message for row in report.files if row.file.endswith(".pth")]
        assert all(("with the right CRC-32" in message) is deep for message in messages)


def test_the_real_llama_7b_params_and_llama_2_tokenizer_verify_in_one_list(tmp_path):
    if not TOKENIZERS.is_dir():
        pytest.skip("Meta's tokenizer files are not on this machine")
    (tmp_path / "params.json").write_text(LLAMA_7B_PARAMS)
    shutil.copy(TOKENIZERS / "llama2.tokenizer.model", tmp_path / "tokenizer.model")
    (tmp_path / "checklist.chk").write_text(
        "7596560e011154b90eb51a1b15739763  params.json\n"
        "eeec4125e9c7560836b4873b6f8e3025  tokenizer.model\n"
    )
    report = verify_checksums(str(tmp_path))
    assert statuses(report) == {"params.json": "ok", "tokenizer.model": "ok"}
    os.remove(tmp_path / "checklist.chk")
    report = verify_checksums(str(tmp_path))
    assert report.ok, "both are known by digests that were posted in public"
    assert rows(report)["params.json"].message == "the file of llama-1-7b"
    assert rows(report)["tokenizer.model"].message == "the file of Llama 1 and 2"
    assert rows(report)["params.json"].expected == "7596560e011154b90eb51a1b15739763"


@pytest.mark.parametrize(("generation", "name"), [(3, "Llama 3"), (4, "Llama 4")])
def test_tokenizers_are_known_without_a_list(tmp_path, generation, name):
    if not TOKENIZERS.is_dir():
        pytest.skip("Meta's tokenizer files are not on this machine")
    shutil.copy(TOKENIZERS / f"llama{generation}.tokenizer.model", tmp_path / "tokenizer.model")
    assert rows(verify_checksums(str(tmp_path)))["tokenizer.model"].message == f"the file of {name}"


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("shard", "name", "layer"),
    [
        (0, "layers.0.attention.wk.weight", 0),
        (1, "layers.1.feed_forward.w2.weight", 1),
        (1, "output.weight", None),
    ],
)
def test_a_flipped_bit_is_found_by_both_checks_and_named(tiny2, listed, shard, name, layer):
    path = tiny2 / f"consolidated.{shard:02d}.pth"
    start, nbytes = storage_of(path, name)
    if listed:
        list_all(tiny2)
    flip(path, start + nbytes // 2, bit=3)
    report = verify_checksums(str(tiny2))
    assert not report.ok
    row = rows(report)[path.name]
    assert row.status == "mismatch"
    assert row.algorithm == ("md5" if listed else "crc32")
    assert row.damaged == (name,)
    (damage,) = row.damage
    assert (damage.tensors, damage.layer) == ((name,), layer)
    assert (damage.start, damage.end, damage.state) == (start, start + nbytes, "differs")
    assert name in row.message
    assert f"{start:,} to {start + nbytes:,}" in row.message
    others = [row for row in report.files if row.file != path.name]
    assert all(row.status in ("ok", "unchecked") for row in others)


def test_a_single_flipped_bit_is_found_and_proved(two):
    path = two / "consolidated.00.pth"
    start, _ = storage_of(path, "layers.1.attention.wv.weight")
    flip(path, start + 77, bit=6)
    row = rows(verify_checksums(str(two)))[path.name]
    assert row.damage[0].flipped_bit == 8 * (start + 77) + 6
    assert row.message.endswith(
        f"one flipped bit did it, bit 6 of byte {start + 77:,}: with it flipped back, the file has "
        "its digest"
    )
    os.remove(two / "checklist.chk")
    row = rows(verify_checksums(str(two)))[path.name]
    assert row.damage[0].flipped_bit == 8 * (start + 77) + 6
    assert row.message.endswith(f"as one flipped bit leaves it: bit 6 of byte {start + 77:,}")


def test_other_damage_is_not_called_a_flipped_bit(two):
    path = two / "consolidated.00.pth"
    start, _ = storage_of(path, "layers.1.attention.wv.weight")
    flip(path, start + 77, bit=6)
    flip(path, start + 78, bit=0)
    for _ in range(2):
        row = rows(verify_checksums(str(two)))[path.name]
        assert row.damage[0].flipped_bit is None
        assert "flipped" not in row.message
        (two / "checklist.chk").unlink(missing_ok=True)


def test_a_flipped_bit_in_another_file_than_the_listed_one_is_not_proved(two):
    """The sums inside point to one bit, and yet the file would not be the listed one."""
    path = two / "consolidated.00.pth"
    start, _ = storage_of(path, "norm.weight")
    flip(path, start)
    (two / "checklist.chk").write_text(f"{'0' * 32}  {path.name}\n")
    row = rows(verify_checksums(str(two)))[path.name]
    assert row.damaged == ("norm.weight",)
    assert row.damage[0].flipped_bit is None


def test_a_shard_cut_short_says_what_is_missing(two):
    path = two / "consolidated.01.pth"
    start, _ = storage_of(path, "layers.1.attention.wo.weight")
    os.truncate(path, start + 100)
    report = verify_checksums(str(two))
    row = rows(report)["consolidated.01.pth"]
    assert row.status == "mismatch"
    states = {d.tensors[0]: d.state for d in row.damage}
    assert states["layers.1.attention.wo.weight"] == "cut"
    assert states["output.weight"] == "absent"
    assert "layers.0.attention.wq.weight" not in states
    cut = next(d for d in row.damage if d.state == "cut")
    assert (cut.start, cut.end) == (start, start + 100)
    whole = torch.load(two / "consolidated.00.pth", weights_only=True)
    names = list(whole)
    lost = names[names.index("layers.1.attention.wo.weight") :]
    assert set(states) == set(lost)
    missing = sum(whole[name].nbytes for name in lost) - 100
    assert f"{missing:,} are missing" in row.message


def test_swapped_shards_are_told(two):
    first, second = two / "consolidated.00.pth", two / "consolidated.01.pth"
    first.rename(two / "x")
    second.rename(first)
    (two / "x").rename(second)
    report = verify_checksums(str(two))
    assert "it has the bytes that consolidated.01.pth should have" in (
        rows(report)["consolidated.00.pth"].message
    )


def test_another_intact_file_is_told_from_a_damaged_one(two):
    weights = cut(random_weights(dense_shapes(TINY, 192), seed=5), 2)
    torch.save(weights[1], two / "consolidated.01.pth")
    row = rows(verify_checksums(str(two)))["consolidated.01.pth"]
    assert (row.status, row.damaged) == ("mismatch", ())
    assert "another file than the listed one" in row.message


def test_the_file_of_another_model_is_called_by_its_name(tmp_path):
    (tmp_path / "params.json").write_text(LLAMA_7B_PARAMS)
    (tmp_path / "checklist.chk").write_text(f"{'0' * 32}  params.json\n")
    row = rows(verify_checksums(str(tmp_path)))["params.json"]
    assert row.message == "it is params.json of llama-1-7b: the list is of another model"


def test_the_digest_of_an_empty_file_in_a_list_is_called_that(two):
    (two / "checklist.chk").write_text("d41d8cd98f00b204e9800998ecf8427e  params.json\n")
    assert "digest of an empty file" in rows(verify_checksums(str(two)))["params.json"].message


def test_damage_that_was_there_when_the_list_was_made_is_found_with_deep(two):
    path = two / "consolidated.00.pth"
    start, _ = storage_of(path, "norm.weight")
    flip(path, start)
    list_all(two, files=["consolidated.00.pth", "consolidated.01.pth", "params.json"])
    assert verify_checksums(str(two)).ok
    row = rows(verify_checksums(str(two), deep=True))["consolidated.00.pth"]
    assert row.status == "mismatch"
    assert row.actual == row.expected
    assert row.damaged == ("norm.weight",)
    assert "damaged before it was listed" in row.message


# --- what stands in place of a file ---------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<!DOCTYPE html><html>Access denied</html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        (bytes(4096), "begins with zeros"),
    ],
)
@pytest.mark.parametrize("file", ["consolidated.00.pth", "params.json"])
def test_a_stand_in_is_called_what_it_is(tiny2, listed, file, content, text):
    if listed:
        list_all(tiny2)
    (tiny2 / file).write_bytes(content)
    row = rows(verify_checksums(str(tiny2)))[file]
    assert row.status == "mismatch"
    assert text in row.message


def test_files_that_cannot_be_read_are_rows_and_the_others_are_verified(two):
    listed = (two / "checklist.chk").read_text()
    for name in ("a_directory", "a_fifo", "a_dangling_link", "consolidated.02.pth"):
        listed += f"{'0' * 32}  {name}\n"
    (two / "checklist.chk").write_text(listed)
    (two / "a_directory").mkdir()
    os.mkfifo(two / "a_fifo")
    (two / "a_dangling_link").symlink_to("nowhere")
    report = verify_checksums(str(two))
    found = {row.file: (row.status, row.message) for row in report.files}
    assert found["a_directory"] == ("unreadable", "it is a directory")
    assert found["a_fifo"] == ("unreadable", "it is a FIFO")
    assert found["a_dangling_link"] == (
        "unreadable",
        "it is a link to nowhere, which does not exist",
    )
    assert found["consolidated.02.pth"] == (
        "missing",
        "there is no such file; checklist.chk, line 7 names it; "
        "of the weights there are consolidated.00.pth, consolidated.01.pth",
    )
    assert found["consolidated.00.pth"] == ("ok", "")
    assert not report.ok


def test_unlisted_obstacles_are_rows_too(two):
    os.mkfifo(two / "pipe")
    (two / "consolidated.02.pth").mkdir()
    found = statuses(verify_checksums(str(two)))
    assert found["pipe"] == found["consolidated.02.pth"] == "unreadable"


@pytest.fixture
def not_root():
    """A directory for a user who may not read everything: root becomes nobody on `become()`."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)  # pytest's own is closed to others
    user = os.geteuid()

    def become():
        if user == 0:
            os.seteuid(65534)

    yield directory, become
    os.seteuid(user)
    shutil.rmtree(directory)


def test_a_file_without_permission_is_a_row(two, not_root):
    directory, become = not_root
    shutil.copytree(two, directory / "model")
    (directory / "model" / "params.json").chmod(0)
    become()
    row = rows(verify_checksums(str(directory / "model")))["params.json"]
    assert (row.status, row.message) == ("unreadable", "it cannot be opened: Permission denied")


# --- lists ----------------------------------------------------------------------------------------


def test_files_in_no_list_are_rows(two):
    (two / "README.md").write_text("hello")
    torch.save({"x": torch.ones(3)}, two / "extra.pth")
    report = verify_checksums(str(two))
    assert report.ok
    assert statuses(report)["README.md"] == "unlisted"
    extra = rows(report)["extra.pth"]
    assert (extra.status, extra.algorithm) == ("unlisted", "crc32")
    assert "the tensors in extra.pth are as they were saved" in report.conclusion
    assert "nothing says what they should be: README.md" in report.conclusion


def test_weights_that_nothing_vouches_for_are_not_verified(two):
    save_file({"x": torch.ones(3)}, two / "model.safetensors")
    report = verify_checksums(str(two))
    assert not report.ok
    assert statuses(report)["model.safetensors"] == "unlisted"
    assert [f.where for f in report.findings] == ["model.safetensors"]
    assert "nothing vouches" in report.findings[0].message


def test_digests_of_several_kinds_are_all_compared(two):
    list_all(two, "SHA256SUMS", "sha256", ["params.json"])
    list_all(two, "params.json.sha512", "sha512", ["params.json"])
    report = verify_checksums(str(two))
    kinds = sorted(row.algorithm for row in report.files if row.file == "params.json")
    assert kinds == ["md5", "sha256", "sha512"]
    (two / "SHA256SUMS").write_text(f"{'0' * 64}  params.json\n")
    assert not verify_checksums(str(two)).ok


def test_contradicting_lists_are_reported_and_not_followed(two):
    (two / "MD5SUMS").write_text(f"{'0' * 32}  consolidated.00.pth\n")
    report = verify_checksums(str(two))
    row = rows(report)["consolidated.00.pth"]
    assert (row.status, row.expected) == ("unchecked", None)
    assert "with the right CRC-32" in row.message
    assert not report.ok
    (finding,) = report.findings
    assert finding.message == (
        "MD5SUMS, line 1, and checklist.chk, line 1, give different digests; neither was used"
    )


def test_a_web_page_in_place_of_the_list_is_an_error_and_sums_inside_still_count(two):
    (two / "checklist.chk").write_text("<html>please log in</html>")
    report = verify_checksums(str(two))
    assert not report.ok
    assert "web page, not a list" in report.findings[0].message
    assert statuses(report)["consolidated.00.pth"] == "ok"
    assert rows(report)["consolidated.00.pth"].algorithm == "crc32"


def test_names_that_lead_away_are_never_opened(two, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    (two / "away").symlink_to(tmp_path)
    (two / "checklist.chk").write_text(
        f"{digest(secret)}  ../secret\n{digest(secret)}  {secret}\n{digest(secret)}  away/secret\n"
        f"{digest(two / 'params.json')}  params.json\n"
    )
    report = verify_checksums(str(two))
    assert [f.severity for f in report.findings] == ["error"] * 3
    assert all("was not opened" in f.message for f in report.findings)
    assert "secret" not in " ".join(statuses(report))
    assert statuses(report)["params.json"] == "ok"


@pytest.fixture
def llama_1(tmp_path, two):
    """Llama 1: the tokenizer and its list one level above the weights."""
    (tmp_path / "download").mkdir()
    two.rename(tmp_path / "download" / "7B")
    root = tmp_path / "download"
    (root / "tokenizer.model").write_bytes(b"tokens")
    list_all(root, "tokenizer_checklist.chk", files=["tokenizer.model"])
    return root


def test_the_llama_1_layout_verifies_from_the_model_and_from_above(llama_1):
    names = ["consolidated.00.pth", "consolidated.01.pth", "params.json"]
    below = verify_checksums(str(llama_1 / "7B"))
    assert statuses(below) == dict.fromkeys(["../tokenizer.model", *names], "ok")
    above = verify_checksums(str(llama_1))
    assert statuses(above) == dict.fromkeys(
        ["tokenizer.model", *(f"7B/{name}" for name in names)], "ok"
    )
    (llama_1 / "tokenizer.model").write_bytes(b"other")
    assert not verify_checksums(str(llama_1 / "7B")).ok


def test_a_list_one_level_up_may_name_the_files_either_way(tmp_path):
    for number, prefix in enumerate(("", "7B/")):
        root = tmp_path / str(number)
        write_native(root / "7B", TINY, [random_weights(dense_shapes(TINY, 192))])
        names = ["consolidated.00.pth", "params.json"]
        lines = [f"{digest(root / '7B' / name)}  {prefix}{name}\n" for name in names]
        (root / "checklist.chk").write_text("".join(lines))
        assert statuses(verify_checksums(str(root / "7B"))) == dict.fromkeys(names, "ok")


def test_one_file_is_verified_alone(two):
    report = verify_checksums(str(two / "consolidated.01.pth"))
    assert statuses(report) == {"consolidated.01.pth": "ok"}
    assert report.files[0].algorithm == "md5"


def test_one_list_is_followed_alone(two):
    (two / "only.md5").write_text(f"{digest(two / 'params.json')}  params.json\n")
    assert statuses(verify_checksums(str(two / "only.md5"))) == {"params.json": "ok"}


# --- without a list -------------------------------------------------------------------------------


def test_without_a_list_the_sums_inside_are_what_can_be_told(tiny2):
    report = verify_checksums(str(tiny2))
    assert report.ok
    assert statuses(report) == {
        "consolidated.00.pth": "ok", "consolidated.01.pth": "ok", "params.json": "unchecked",
    }  # fmt: skip
    assert report.conclusion == (
        "No list of checksums and no digests from the hub to hold the files against. "
        "Established by the CRC-32s inside: the tensors in consolidated.00.pth, "
        "consolidated.01.pth are as they were saved. Not established: who saved them, and whether "
        "that is what was published. "
        "Not checked, since nothing says what they should be: params.json"
    )


@pytest.mark.parametrize("absent", [0, 1])
def test_a_shard_that_no_list_names_is_missed_all_the_same(tiny2, absent):
    os.remove(tiny2 / f"consolidated.{absent:02d}.pth")
    report = verify_checksums(str(tiny2))
    assert not report.ok
    row = rows(report)[f"consolidated.{absent:02d}.pth"]
    assert row.status == "missing"
    assert "the weights are cut into 2 shards" in row.message


def test_what_is_too_large_to_be_read_is_not_called_wrong(tmp_path):
    """A header of 100,000 tensors, and an index of 34 MB: of both every byte is in order."""
    table = {
        f"experts.{number}": {"dtype": "U8", "shape": [1], "data_offsets": [number, number + 1]}
        for number in range(100_000)
    }
    header = json.dumps(table).encode()
    shard = len(header).to_bytes(8, "little") + header + bytes(len(table))
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(shard)
    index = {"weight_map": dict.fromkeys(table, "model-00001-of-00001.safetensors")}
    data = json.dumps(index).encode().ljust(34 * 10**6)
    (tmp_path / "model.safetensors.index.json").write_bytes(data)
    with pytest.raises(li.MissingFile, match="more than 500,000 values, and so many are not read"):
        li.verify_checksums(str(tmp_path))


def test_shards_that_an_index_names_are_missed(tmp_path):
    save_file({"x": torch.ones(3)}, tmp_path / "model-00001-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "model-00001-of-00002.safetensors", '
        '"y": "model-00002-of-00002.safetensors", "z": ["../../etc/passwd"], "w": "../x.pth"}}'
    )
    report = verify_checksums(str(tmp_path))
    missing = [row.file for row in report.files if row.status == "missing"]
    assert missing == ["model-00002-of-00002.safetensors"]


def test_nothing_to_check_against_is_no_answer(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(li.MissingFile, match=r"nothing to check against: no list of checksums"):
        verify_checksums(str(tmp_path))
    save_file({"x": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(li.MissingFile, match=r"its 1 tensor cover the file byte for byte"):
        verify_checksums(str(tmp_path))


def test_weights_saved_without_sums_cannot_be_checked(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    with pytest.raises(li.MissingFile, match=r"x\.pth: no CRC-32 was recorded when it was saved"):
        verify_checksums(str(tmp_path))


def test_published_sizes_are_compared(tmp_path):
    """A sparse file of the length that Llama 3 8B has, and one that is a little short."""
    params = {
        "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
        "multiple_of": 1024, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
    }  # fmt: skip
    write_native(tmp_path, params, [{"x": torch.ones(3)}])
    path = tmp_path / "consolidated.00.pth"
    os.truncate(path, 16_060_617_592 - 5)
    report = verify_checksums(str(path))
    (finding,) = report.findings
    assert finding.severity == "warning"
    assert finding.message.startswith("5 bytes fewer than the 16,060,617,592 published for llama-3")
    os.truncate(path, 16_060_617_592)
    (finding,) = verify_checksums(str(path)).findings
    assert finding.message.startswith("16,060,617,592 bytes, the size published for llama-3-8b")


# --- the hub --------------------------------------------------------------------------------------


def in_hub_cache(root, files):
    """models--x--y with blobs, refs/main and a snapshot of links, as huggingface_hub has it."""
    repository = root / "models--meta-llama--Llama-3.1-8B"
    snapshot = repository / "snapshots" / ("0" * 40)
    for folder in (repository / "blobs", repository / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text("0" * 40)
    for name, source in files.items():
        data = source.read_bytes()
        large = name.endswith((".pth", ".model"))
        header = f"blob {len(data)}\0".encode()
        blob = hashlib.sha256(data) if large else hashlib.sha1(header + data)
        shutil.copy(source, repository / "blobs" / blob.hexdigest())
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        depth = "../" * (2 + name.count("/"))
        link.symlink_to(f"{depth}blobs/{blob.hexdigest()}")
    return repository


def test_a_snapshot_in_the_hub_cache_verifies_against_the_names_of_its_blobs(tmp_path, tiny):
    files = {f"original/{path.name}": path for path in tiny.iterdir()}
    repository = in_hub_cache(tmp_path, files | {"config.json": tiny / "params.json"})
    (snapshot,) = (repository / "snapshots").iterdir()
    for path in (repository, snapshot):
        report = verify_checksums(str(path))
        assert {row.file: (row.status, row.algorithm) for row in report.files} == {
            "config.json": ("ok", "git-blob-sha1"),
            "original/consolidated.00.pth": ("ok", "sha256"),
            "original/params.json": ("ok", "git-blob-sha1"),
        }
    blob = (snapshot / "original" / "consolidated.00.pth").resolve()
    start, _ = storage_of(blob, "layers.1.ffn_norm.weight")
    flip(blob, start)
    report = verify_checksums(str(snapshot / "original"))
    assert rows(report)["consolidated.00.pth"].damaged == ("layers.1.ffn_norm.weight",)
    blob.unlink()
    assert statuses(verify_checksums(str(snapshot)))["original/consolidated.00.pth"] == "unreadable"


def test_a_download_into_a_folder_verifies_against_its_etags(tmp_path, tiny):
    download = tmp_path / "download"
    shutil.copytree(tiny, download / "original")
    metadata = download / ".cache" / "huggingface" / "download" / "original"
    metadata.mkdir(parents=True)
    data = (tiny / "params.json").read_bytes()
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    etags = {
        "consolidated.00.pth": digest(tiny / "consolidated.00.pth", "sha256"),
        "params.json": git,
        "tokenizer.model": "0" * 64,
    }
    for name, etag in etags.items():
        (metadata / f"{name}.metadata").write_text(f"{'1' * 40}\n{etag}\n1712656091.123\n")
    report = verify_checksums(str(download))
    assert statuses(report) == {
        "original/consolidated.00.pth": "ok",
        "original/params.json": "ok",
        "original/tokenizer.model": "missing",
    }
    below = verify_checksums(str(download / "original"))
    assert statuses(below) == {
        "consolidated.00.pth": "ok", "params.json": "ok", "tokenizer.model": "missing",
    }  # fmt: skip
    alone = verify_checksums(str(download / "original" / "params.json"))
    assert statuses(alone) == {"params.json": "ok"}


# --- writing --------------------------------------------------------------------------------------


def test_a_written_list_is_what_md5sum_accepts(tiny2):
    (tiny2 / "odd name \\ with\nnewline").write_text("x")
    report = verify_checksums(str(tiny2), write=True)
    assert report.ok
    assert report.written == "checklist.chk"
    assert {row.algorithm for row in report.files} == {"md5"}
    done = subprocess.run(
        ["md5sum", "-c", "--strict", "checklist.chk"], cwd=tiny2, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("OK") == 4
    again = verify_checksums(str(tiny2))
    assert again.ok
    assert all(row.status == "ok" for row in again.files)


def test_a_list_is_never_overwritten_without_force(two):
    before = (two / "checklist.chk").read_text()
    (two / "params.json").write_text("{}")
    with pytest.raises(li.LlamaInspectError, match="--force overwrites it"):
        verify_checksums(str(two), write=True)
    assert (two / "checklist.chk").read_text() == before
    assert verify_checksums(str(two), write=True, force=True).ok
    assert re.match(r"[0-9a-f]{32}  consolidated", (two / "checklist.chk").read_text())
    assert verify_checksums(str(two)).ok


def test_damage_is_not_written_into_a_list(tiny2):
    start, _ = storage_of(tiny2 / "consolidated.01.pth", "norm.weight")
    flip(tiny2 / "consolidated.01.pth", start)
    report = verify_checksums(str(tiny2), write=True)
    assert not report.ok
    assert report.written is None
    assert report.conclusion.endswith("checklist.chk was not written")
    assert sorted(path.name for path in tiny2.iterdir()) == [
        "consolidated.00.pth", "consolidated.01.pth", "params.json",
    ]  # fmt: skip


def test_a_list_is_made_for_a_directory_only(two):
    with pytest.raises(li.LlamaInspectError, match="give its path"):
        verify_checksums(str(two / "params.json"), write=True)


# --- what must not hide anything ------------------------------------------------------------------


@pytest.mark.parametrize("target", ["loop", "params.json/x"])
def test_a_link_in_a_circle_or_through_a_file_hides_nothing(two, target):
    (two / "loop").symlink_to(target)
    report = verify_checksums(str(two))
    assert not report.ok
    found = statuses(report)
    assert found.pop("loop") == "unreadable"
    assert list(found.values()) == ["ok"] * 3


def test_a_folder_that_may_not_be_listed_is_a_row(llama_1, not_root):
    directory, become = not_root
    shutil.copytree(llama_1, directory / "download")
    (directory / "download" / "7B").chmod(0)
    become()
    report = verify_checksums(str(directory / "download"))
    assert not report.ok
    row = rows(report)["7B"]
    assert (row.status, row.message) == ("unreadable", "it cannot be listed: Permission denied")


def test_an_interrupted_download_into_the_hub_cache_is_not_whole(tmp_path, tiny):
    files = {f"original/{path.name}": path for path in tiny.iterdir()}
    repository = in_hub_cache(tmp_path, files | {"config.json": tiny / "params.json"})
    (snapshot,) = (repository / "snapshots").iterdir()
    link = snapshot / "original" / "consolidated.00.pth"
    blob = link.resolve()
    blob.rename(f"{blob}.incomplete")
    link.unlink()
    report = verify_checksums(str(snapshot))
    assert not report.ok
    assert set(statuses(report)) == {"config.json", "original/params.json"}
    (finding,) = report.findings
    assert finding.where == f"../../blobs/{blob.name}.incomplete"
    assert "unfinished download" in finding.message


def test_a_download_of_which_nothing_has_come_yet_is_told(tmp_path, tiny):
    repository = in_hub_cache(tmp_path, {"params.json": tiny / "params.json"})
    (snapshot,) = (repository / "snapshots").iterdir()
    blob = (snapshot / "params.json").resolve()
    blob.rename(f"{blob}.incomplete")
    (snapshot / "params.json").unlink()
    report = verify_checksums(str(repository))
    assert (report.ok, report.files) == (False, ())
    assert "unfinished download" in report.findings[0].message


def test_an_unfinished_download_into_a_folder_is_not_whole(tmp_path, two):
    metadata = two / ".cache" / "huggingface" / "download"
    metadata.mkdir(parents=True)
    (metadata / f"abc.{'0' * 64}.incomplete").write_bytes(b"x")
    (metadata / f"def.{'0' * 64}.incomplete").symlink_to("nowhere")
    report = verify_checksums(str(two))
    assert not report.ok
    assert [finding.severity for finding in report.findings] == ["error", "error"]
    assert set(statuses(report).values()) == {"ok"}


def test_hub_metadata_leads_out_of_the_directory_no_more_than_a_list(tmp_path, two):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (two / "away").symlink_to(outside)
    metadata = two / ".cache" / "huggingface" / "download" / "away"
    metadata.mkdir(parents=True)
    (metadata / "secret.metadata").write_text(f"{'1' * 40}\n{'0' * 64}\n1\n")
    report = verify_checksums(str(two))
    assert "away/secret" not in statuses(report)
    assert "not opened" in report.findings[0].message


def test_shards_that_changed_places_are_told_without_a_list(tiny2):
    first, second = tiny2 / "consolidated.00.pth", tiny2 / "consolidated.01.pth"
    first.rename(tiny2 / "x")
    second.rename(first)
    (tiny2 / "x").rename(second)
    report = verify_checksums(str(tiny2))
    found = {f.where: f.message for f in report.findings if f.severity == "warning"}
    assert "torch saved it as consolidated.01.pth" in found["consolidated.00.pth"]


def test_an_undisputed_digest_counts_beside_a_disputed_one(two):
    (two / "MD5SUMS").write_text(f"{'0' * 32}  params.json\n")
    (two / "SHA256SUMS").write_text(f"{'0' * 64}  params.json\n")
    row = rows(verify_checksums(str(two)))["params.json"]
    assert (row.algorithm, row.status) == ("sha256", "mismatch")


@pytest.mark.parametrize("name", [" lead.json", "*star.json", "trail.json ", "a  b"])
def test_names_with_blanks_and_stars_survive_writing_and_reading(tmp_path, name):
    (tmp_path / name).write_text("{}")
    verify_checksums(str(tmp_path), write=True)
    assert statuses(verify_checksums(str(tmp_path))) == {name: "ok"}


def test_a_bare_digest_belongs_to_the_file_beside_it(two):
    os.remove(two / "checklist.chk")
    (two / "consolidated.00.md5").write_text(digest(two / "consolidated.00.pth") + "\n")
    row = rows(verify_checksums(str(two)))["consolidated.00.pth"]
    assert (row.status, row.algorithm) == ("ok", "md5")
    (two / "checklist.chk").write_text("0" * 32 + "\n")
    report = verify_checksums(str(two))
    assert "checklist" not in statuses(report)
    assert not report.ok


def test_replacing_a_list_tells_what_differs_from_the_old_one(two):
    old = digest(two / "params.json")
    with (two / "params.json").open("a") as file:
        file.write(" ")
    report = verify_checksums(str(two), write=True, force=True)
    assert report.written
    assert statuses(report)["params.json"] == "unchecked", "nothing verified it"
    (finding,) = report.findings
    assert (finding.where, finding.severity) == ("params.json", "warning")
    assert old in finding.message


def test_a_directory_in_place_of_the_list_is_not_replaced(tiny2):
    (tiny2 / "checklist.chk").mkdir()
    with pytest.raises(li.LlamaInspectError, match="cannot be replaced: it is a directory"):
        verify_checksums(str(tiny2), write=True, force=True)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("tokenizer.model", b"\x0a\xff", "ends in the middle of a piece"),
        ("params.json", b'{"dim": 64', "not valid JSON"),
    ],
)
def test_small_files_that_cannot_be_right_are_told_without_a_list(tiny2, name, content, text):
    (tiny2 / name).write_bytes(content)
    row = rows(verify_checksums(str(tiny2)))[name]
    assert row.status == "mismatch"
    assert text in row.message


def test_bytes_lost_in_the_middle_are_told_of_the_right_tensor(two):
    path = two / "consolidated.00.pth"
    start, nbytes = storage_of(path, "layers.0.feed_forward.w3.weight")
    data = path.read_bytes()
    path.write_bytes(data[: start + 50] + data[start + 150 :])
    row = rows(verify_checksums(str(two)))[path.name]
    assert row.damaged == ("layers.0.feed_forward.w3.weight",)
    assert (row.damage[0].start, row.damage[0].end) == (start, start + nbytes - 100)
    assert "100 bytes lost from it" in row.message
    path.write_bytes(data[: start + 50] + b"\r" + data[start + 50 :])
    row = rows(verify_checksums(str(two)))[path.name]
    assert row.damaged == ("layers.0.feed_forward.w3.weight",)
    assert "1 byte put into it" in row.message


def test_a_damaged_sum_is_not_a_damaged_tensor(two):
    path = two / "consolidated.00.pth"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/5")) + 16] ^= 1
    path.write_bytes(data)
    row = rows(verify_checksums(str(two)))[path.name]
    assert (row.status, row.damaged) == ("mismatch", ())
    assert "the checksum of data/5 in the directory" in row.message


def test_the_sum_of_a_record_without_bytes_is_compared_too(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"none": torch.empty(0), "some": torch.ones(3)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (name,) = [i.filename for i in archive.infolist() if i.filename.endswith("/data/0")]
        assert archive.getinfo(name).file_size == 0
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode())) + 16
    data[at] ^= 1
    path.write_bytes(data)
    assert zipfile.ZipFile(path).testzip() == name
    (row,) = verify_checksums(str(path), deep=True).files
    assert (row.status, row.damaged) == ("mismatch", ())
    assert "the checksum of data/0 in the directory" in row.message


def test_a_file_that_vanishes_meanwhile_does_not_lose_the_report(two):
    (two / "params.json").write_text("{}")
    progress = verifying(str(two))
    next(progress)
    (two / "params.json").unlink()
    found = statuses(finish(progress))
    assert found["params.json"] in ("mismatch", "unreadable"), "read before, or not any more"
    assert found["consolidated.00.pth"] == "ok"


def test_a_damaged_file_that_looks_compressed_is_called_damaged(tiny):
    """A flip in the directory makes a record look compressed, another hurts the pickle."""
    path = tiny / "consolidated.00.pth"
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/5")) + 10] ^= 1
    data[200] ^= 1
    path.write_bytes(data)
    row = rows(verify_checksums(str(tiny)))[path.name]
    assert row.status == "mismatch"
    assert "is compressed" in row.message
    assert "in its first record, data.pkl" in row.message
