"""Malformed requests as HTTP brings them; `tests.support.malformed` says what is left out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.support.malformed import (
    MANY_NUMBERS,
    Broken,
    Clues,
    Draw,
    Request,
    Valid,
    break_somewhere,
    kind,
    values_of,
)


@dataclass(frozen=True)
class HttpCase:
    """A request as it goes over HTTP.

    Where nothing says where it ends (`unreadable`) there is no request to be answered: Triton may close the
    connection without a word. `cut`: the client says no more after `body`.
    """

    model: str
    kinds: tuple[str, ...]
    clues: frozenset[str]
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    unreadable: bool = False
    cut: bool = False


@st.composite
def http_cases(draw: Draw, valid: Sequence[Valid]) -> HttpCase:
    """A request that is wrong in what it says, in its JSON, or in how HTTP brings it."""
    base = draw(st.sampled_from(valid))
    broken = Broken.from_valid(draw, base)
    how = draw(st.sampled_from(("binary", "binary", "json", "header", "body", "place", "frame")))
    few = sum(len(tensor.data) for tensor in base.request.inputs) <= MANY_NUMBERS
    if how == "binary":
        break_somewhere(broken)
        header, tail = http_parts(broken.request)
    elif how == "json" and few:
        header, tail = http_parts(broken.request, as_text=True)
        _note(broken, broken.one_of(*_JSON_BREAKS), header)
    elif how in ("json", "header"):
        header, tail = http_parts(broken.request)
        _note(broken, broken.one_of(*_HEADER_BREAKS), header)
    else:
        header, tail = http_parts(broken.request)
        whole = _http_case(broken, header, tail)
        chosen = broken.one_of(*{"body": _BODY_BREAKS, "place": _PLACE_BREAKS, "frame": _FRAME_BREAKS}[how])
        return _told(chosen(broken, whole, len(json.dumps(header))), chosen)
    return _http_case(broken, header, tail)


def http_parts(request: Request, *, as_text: bool = False) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request, and the data that follows it, none where it is in the JSON (`as_text`)."""
    inputs: list[dict[str, Any]] = []
    tail = b""
    for tensor in request.inputs:
        sent: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.parameters:
            sent["parameters"] = tensor.parameters
        elif as_text:
            sent["data"] = [v.decode() if isinstance(v, bytes) else v for v in values_of(tensor)]
        else:
            sent["parameters"] = {"binary_data_size": len(tensor.data)}
            tail += tensor.data
        inputs.append(sent)
    header: dict[str, Any] = {"id": "1", "inputs": inputs}
    if request.outputs:
        header["outputs"] = [{"name": name, "parameters": parameters} for name, parameters in request.outputs]
    if request.parameters:
        header["parameters"] = request.parameters
    return header, tail


def http_path(request: Request) -> str:
    """Where a request is sent to."""
    version = f"/versions/{request.version}" if request.version else ""
    return f"/v2/models/{request.model}{version}/infer"


def _http_case(broken: Broken, header: Any, tail: bytes) -> HttpCase:
    text = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if tail else {}
    return HttpCase(
        broken.valid.request.model,
        tuple(broken.kinds),
        frozenset(broken.clues),
        "POST",
        http_path(broken.request),
        headers,
        text + tail,
    )


def _note(broken: Broken, chosen: Callable[[Broken, Any], Clues], header: Any) -> None:
    broken.clues.update(chosen(broken, header))
    broken.kinds.append(f"http: {kind(chosen)}")


def _told(case: HttpCase, chosen: Callable[..., HttpCase]) -> HttpCase:
    return replace(case, kinds=(f"http: {kind(chosen)}",))


def _lacks_field(broken: Broken, header: Any) -> Clues:
    key = broken.one_of("name", "shape", "datatype", "data")
    del broken.one_of(*header["inputs"])[key]
    return (f"parse '{key}'", "Input must set only one of the following fields")


def _field_of_other_type(broken: Broken, header: Any) -> Clues:
    key, values = broken.one_of(
        ("name", (5, None, [], {})),
        ("datatype", (5, None, [], {})),
        ("shape", ("x", 5, None, {}, ["a"], [1.5], [[2]], [-1], [2**64], [1e30], [None])),
        ("data", ("x", 5, None, {}, True)),
    )
    broken.one_of(*header["inputs"])[key] = broken.one_of(*values)
    return (f"parse '{key}'",)


def _number_of_other_type(broken: Broken, header: Any) -> Clues:
    data = broken.one_of(*header["inputs"])["data"]
    at = broken.draw(st.integers(0, len(data) - 1))
    if isinstance(data[at], str):
        data[at] = broken.one_of(1, None, {}, True, [1])
    else:
        data[at] = broken.one_of("x", "1", None, {}, True, [None])
    return ("parse 'data'", "parse JSON bytes array")


def _other_count_of_numbers(broken: Broken, header: Any) -> Clues:
    tensor = broken.one_of(*header["inputs"])
    data = tensor["data"]
    if broken.draw(st.booleans()):
        del data[broken.draw(st.integers(0, len(data) - 1)) :]
    else:
        data.extend(data[:1] * broken.one_of(1, 2, 100))
    return ("parse 'data'", f"input '{tensor['name']}'")


def _other_shape(broken: Broken, header: Any) -> Clues:
    """Small enough for the memory that Triton takes for it."""
    tensor = broken.one_of(*header["inputs"])
    tensor["shape"] = [broken.draw(st.integers(1, 10_000).filter(lambda size: size != tensor["shape"][0]))]
    return ("parse 'data'", f"input '{tensor['name']}'")


def _text_and_data(broken: Broken, header: Any) -> Clues:
    broken.one_of(*header["inputs"])["parameters"] = {"binary_data_size": 8}
    return ("Input must set only one of the following fields",)


def _nested_data(broken: Broken, header: Any) -> Clues:
    depth = broken.one_of(1, 10, 1000)
    tensor = broken.one_of(*header["inputs"])
    tensor["data"] = json.loads("[" * depth + "]" * depth)
    return ("parse 'data'", f"input '{tensor['name']}'")


def _part_of_other_type(broken: Broken, header: Any) -> Clues:
    output = broken.valid.outputs[0]
    binary = "data" not in header["inputs"][0]
    part, value, clue = broken.one_of(
        *(("inputs", value, "parse 'inputs'") for value in ({}, None, 5, "x")),
        *(("inputs", [value], "Input must set only one of the following fields") for value in (1, {}, None)),
        ("inputs", [], "additional input data" if binary else "but got 0 inputs"),
        *(("outputs", value, "parse 'outputs'") for value in ({}, None, 5, "x")),
        *(("outputs", [value], "parse 'name'") for value in (1, {}, {"name": 5})),
        *(("parameters", value, "request params") for value in ([], None, 5, "x")),
        *(("parameters", {"odd": value}, "parameter 'odd'") for value in ({}, None, [])),
        *(("id", value, "parse 'id'") for value in ([], None, 5)),
        *(
            ("outputs", [{"name": output, "parameters": {key: value}}], f"'{key}'")
            for key, value in (("classification", -1), ("classification", "x"), ("binary_data", "x"))
        ),
    )
    header[part] = value
    return (clue,)


def _wrong_binary_size(broken: Broken, header: Any) -> Clues:
    sent = broken.one_of(*header["inputs"])["parameters"]
    right = sent["binary_data_size"]
    number = st.integers(0, 2**63).filter(lambda size: size != right)
    near = st.sampled_from((right + 1, right - 1))
    other = st.sampled_from((-1, -(2**63), 2**64, str(right), right + 0.5, float(right), None, [], {}))
    sent["binary_data_size"] = broken.draw(near | number | other)
    return ("additional bytes", "additional input data", "parse 'binary_data_size'")


def _shape_of_other_type(broken: Broken, header: Any) -> Clues:
    broken.one_of(*header["inputs"])["shape"] = broken.one_of("x", 5, None, {}, ["a"], [1.5], [2**64], [1e30])
    return ("parse 'shape'",)


_JsonBreak = Callable[[Broken, Any], Clues]
_JSON_BREAKS: tuple[_JsonBreak, ...] = (
    _lacks_field,
    _field_of_other_type,
    _number_of_other_type,
    _other_count_of_numbers,
    _other_shape,
    _text_and_data,
    _nested_data,
    _part_of_other_type,
)
_HEADER_BREAKS: tuple[_JsonBreak, ...] = (_wrong_binary_size, _shape_of_other_type, _part_of_other_type)


def _cut_tail(broken: Broken, whole: HttpCase, header: int) -> HttpCase:
    keep = broken.draw(st.integers(header, len(whole.body) - 1))
    return replace(whole, body=whole.body[:keep], clues=frozenset({"additional bytes"}))


def _long_tail(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    more = broken.draw(st.binary(min_size=1, max_size=100))
    return replace(whole, body=whole.body + more, clues=frozenset({"additional input data"}))


def _cut_json(broken: Broken, whole: HttpCase, header: int) -> HttpCase:
    keep = broken.draw(st.integers(1, header - 1))
    return replace(whole, headers={}, body=whole.body[:keep], clues=frozenset({"parse the request JSON"}))


def _no_json(broken: Broken, whole: HttpCase, header: int) -> HttpCase:
    deep = broken.one_of(10, 100, 1000)
    body = broken.one_of(
        *(b"[]", b"null", b"1", b'"inputs"', b"{}", b'{"inputs":1}', b"nan", b"\0" * 10, b"\xff\xfe", b"'"),
        whole.body[:header] + b"}",
        b"[" * deep,
        b"[" * deep + b"]" * deep,
        b'{"inputs":' * deep + b"1" + b"}" * deep,
    )
    return replace(
        whole, headers={}, body=body, clues=frozenset({"parse the request JSON", "parse 'inputs'"})
    )


def _no_body(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    return replace(whole, headers={}, body=b"", clues=_AS_RAW)


def _wrong_header_length(broken: Broken, whole: HttpCase, header: int) -> HttpCase:
    number = st.integers(-(2**31), 2**31 - 1).filter(lambda size: size != header)
    near = st.integers(max(0, header - 20), len(whole.body) + 20).filter(lambda size: size != header)
    text = broken.draw(st.sampled_from(("", "x", "-", "0x10")) | (number | near).map(str))
    # Zeros after the JSON end it, as they do a text in C; then the data are too short.
    clues = {"inference header size", "parse the request JSON", "additional bytes"} | _AS_RAW
    return replace(whole, headers={"Inference-Header-Content-Length": text}, clues=frozenset(clues))


def _wrong_encoding(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    packed = gzip.compress(whole.body)
    name, body = broken.one_of(
        *((name, whole.body) for name in ("br", "x", "zstd", "gzip, deflate")),
        *((name, whole.body) for name in ("gzip", "deflate")),
        *((name, b"") for name in ("gzip", "deflate")),
        ("gzip", packed[: len(packed) // 2]),
    )
    clues = {
        "Unsupported compression type",
        "nothing to be decompressed",
        "inference header size",
        "parse the request JSON",
        "additional bytes",
    } | _AS_RAW
    return replace(
        whole, headers={**whole.headers, "Content-Encoding": name}, body=body, clues=frozenset(clues)
    )


_AS_RAW = frozenset({"Raw request must only have 1 input", "input 'raw_input'"})
"""What Triton says of a body that it takes for the data of the only input."""


def _wrong_method(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    method = broken.one_of("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NOPE")
    return replace(whole, method=method, clues=frozenset({"Method Not Allowed"}))


def _wrong_path(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    model = broken.valid.request.model
    found = "Not Found"
    path, clue = broken.one_of(
        *(
            (path, found)
            for path in ("/", "/v2", "/v2/models", "/v2/models//infer", "/v3", "/v2/../etc/passwd")
        ),
        *(
            (f"/v2/models/{model}{rest}", found)
            for rest in (
                *("/", "//infer", "/infer/", "/infers", "/versions/x/infer", "/versions/-1/infer"),
                *("/versions//infer", "/versions/1/infer/x"),
            )
        ),
        (f"/v2/models/../../{model}/infer", found),
        (f"/v2/models/{model}/versions/7/infer", "version 7 is not found"),
        ("/v2/models/..%2f..%2fetc/infer", "unknown model: '..%2f..%2fetc'"),
        ("/v2/models/%00/infer", "unknown model: '%00'"),
        ("/v2/models/nobody/infer", "unknown model: 'nobody'"),
    )
    return replace(
        whole, path=path, clues=frozenset({clue, "Method Not Allowed"} if path == "/v2" else {clue})
    )


def _wrong_question(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    """A GET that asks for something which is not there."""
    model = broken.valid.request.model
    path, clue = broken.one_of(
        ("/", "Not Found"),
        ("/v2/nope", "Not Found"),
        (f"/v2/models/{model}/versions/x", "Not Found"),
        (f"/v2/models/{model}/versions/9/config", "version 9 is not found"),
        (f"/v2/models/{model}/infer", "Method Not Allowed"),
        ("/v2/models/nobody", "unknown model: 'nobody'"),
        ("/v2/models/nobody/config", "unknown model: 'nobody'"),
        ("/v2/models/nobody/stats", "'nobody'"),
    )
    return replace(whole, method="GET", path=path, headers={}, body=b"", clues=frozenset({clue}))


def _wrong_length(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    """Said of the body; what is missing of it never comes."""
    more = len(whole.body) + broken.draw(st.integers(1, 1000))
    length = broken.one_of("-1", "x", "", "99999999999999999999", str(more), "2147483647")
    headers = {**whole.headers, "Content-Length": length}
    return replace(whole, headers=headers, unreadable=True, cut=True)


def _cut_body(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    headers = {**whole.headers, "Content-Length": str(len(whole.body))}
    keep = broken.draw(st.integers(0, len(whole.body) - 1))
    return replace(whole, headers=headers, body=whole.body[:keep], unreadable=True, cut=True)


def _wrong_chunks(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    size = broken.one_of(b"zz", b"-5", b"", b"0x5", b"ffffffffffffffff", b"%x" % (len(whole.body) + 9))
    headers = {**whole.headers, "Transfer-Encoding": "chunked"}
    return replace(whole, headers=headers, body=size + b"\r\n" + whole.body, unreadable=True, cut=True)


def _oversized_header(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    size = broken.one_of(9_000, 100_000)
    where = broken.one_of("value", "name", "path")
    if where == "path":
        return replace(whole, path=whole.path + "?" + "a" * size, unreadable=True)
    name, value = ("X-Long", "a" * size) if where == "value" else ("X" * size, "a")
    return replace(whole, headers={**whole.headers, name: value}, unreadable=True)


def _no_request(broken: Broken, whole: HttpCase, _: int) -> HttpCase:
    method, path = broken.one_of(
        ("post", whole.path), ("CONNECT", whole.path), ("POST", "infer"), ("POST", "*")
    )
    return replace(whole, method=method, path=path, unreadable=True)


_HttpBreak = Callable[[Broken, HttpCase, int], HttpCase]
_BODY_BREAKS: tuple[_HttpBreak, ...] = (
    _cut_tail,
    _long_tail,
    _cut_json,
    _no_json,
    _no_body,
    _wrong_header_length,
    _wrong_encoding,
)
_PLACE_BREAKS: tuple[_HttpBreak, ...] = (_wrong_method, _wrong_path, _wrong_question)
_FRAME_BREAKS: tuple[_HttpBreak, ...] = (
    _wrong_length,
    _cut_body,
    _wrong_chunks,
    _oversized_header,
    _no_request,
)
