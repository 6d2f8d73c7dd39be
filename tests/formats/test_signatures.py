"""What a file is when it is not what its name says."""

import gzip
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llamainspect.formats.signatures import HEAD_NBYTES, describe_stand_in, is_web_page


@pytest.mark.parametrize(
    "head",
    [
        b"<!DOCTYPE html>",
        b"<!doctype HTML PUBLIC",
        b"<html>",
        b"<HTML lang='en'>",
        b"<head><title>403</title>",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b"<Error><Code>AccessDenied</Code></Error>",
        b"\xef\xbb\xbf<!DOCTYPE html>",
        b"\r\n\t  <html>",
        b"\xef\xbb\xbf\r\n <html>",
    ],
)
def test_a_web_page_is_known_by_its_beginning(head: bytes) -> None:
    assert is_web_page(head)
    text = describe_stand_in(head, 12345)
    assert text is not None
    assert "web page of 12,345 bytes" in text


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b" ",
        b"<",
        b"html",
        b"{}",
        b"<h1>",
        b"PK\x03\x04<html>",
        b"x <!DOCTYPE html>",
        b"\0<html>",
    ],
)
def test_what_only_holds_a_page_somewhere_is_none(head: bytes) -> None:
    assert not is_web_page(head)


def test_a_pointer_of_git_lfs_is_told_with_the_command_that_helps() -> None:
    text = describe_stand_in(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 130)
    assert text is not None
    assert "git lfs pull" in text


def test_an_empty_file_is_told() -> None:
    assert describe_stand_in(b"", 0) == "the file is empty; download it again"


@pytest.mark.parametrize("count", [1, HEAD_NBYTES])
def test_a_beginning_of_zeros_is_told(count: int) -> None:
    text = describe_stand_in(bytes(count), 10**9)
    assert text is not None
    assert "zeros" in text


def _torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        _torch_file(),
        gzip.compress(b"x"),
        b'{"dim": 4096}',
        b"\x10\0\0\0\0\0\0\0{",
        b"\0" * (HEAD_NBYTES - 1) + b"\1",
        b"access denied",
        b"version 1",
    ],
    ids=["torch", "gzip", "JSON", "safetensors", "zeros and a one", "text", "a version"],
)
def test_what_stands_for_nothing_else_is_passed(data: bytes) -> None:
    assert describe_stand_in(data[:HEAD_NBYTES], len(data)) is None


@given(head=st.binary(max_size=HEAD_NBYTES))
def test_any_bytes_are_looked_at_without_a_crash(head: bytes) -> None:
    text = describe_stand_in(head, len(head))
    assert text is None or text
