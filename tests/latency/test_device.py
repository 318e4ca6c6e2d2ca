"""Devices: one canonical name each, and nothing in a name that reaches a shell or an option of ssh."""

import dataclasses
import itertools

import pytest

from latency.device import PROVIDERS, Device
from search_spaces.errors import InputError

CANONICAL = {
    "cpu": Device(),
    "cpu:threads=2": Device(threads=2),
    "cpu:int8": Device(precision="int8"),
    "cpu:threads=2,batch=8,int8": Device(threads=2, batch=8, precision="int8"),
    "cuda": Device("cuda"),
    "openvino": Device("openvino"),
    "openvino:bf16": Device("openvino", precision="bf16"),
    "ssh://board/cpu": Device(host="ssh://board"),
    "ssh://me@10.0.0.7:2222/xnnpack:threads=4": Device("xnnpack", "ssh://me@10.0.0.7:2222", threads=4),
    "ssh://me@[fe80::1]:22/cpu": Device(host="ssh://me@[fe80::1]:22"),
    "ssh://board/cpu:python=~/my venv/bin/python": Device(host="ssh://board", python="~/my venv/bin/python"),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_name_and_device_are_one(name: str) -> None:
    assert Device.parse(name) == CANONICAL[name] and CANONICAL[name].name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cpu:threads=1", "cpu"),
        ("cpu:", "cpu"),
        ("cpu:batch=1,fp32,threads=01", "cpu"),
        ("ssh://board", "ssh://board/cpu"),
        ("ssh://board/", "ssh://board/cpu"),
        ("ssh://board/cpu:python=python3", "ssh://board/cpu"),
    ],
)
def test_what_is_left_to_the_default_is_not_named(text: str, name: str) -> None:
    assert Device.parse(text).name == name


def test_order_of_the_options_does_not_matter() -> None:
    orders = itertools.permutations(["threads=2", "batch=4", "int8", "python=/usr/bin/python3"])
    assert len({Device.parse(f"ssh://board/cpu:{','.join(order)}") for order in orders}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpi", "unknown device 'cpi'; did you mean 'cpu'"),
        ("", "unknown device ''; known: .*cpu"),
        ("ssh://board/cdua", "unknown device 'cdua'; did you mean 'cuda'"),
        ("cpu:thread=2", "unknown option of device 'cpu:thread=2': 'thread=2'; did you mean 'threads=N'"),
        ("cpu:int4", "unknown option of device 'cpu:int4': 'int4'; did you mean 'int8'"),
        ("cpu:int8,", "unknown option of device 'cpu:int8,': ''; known: .*threads=N"),
        ("cpu:threads", "did you mean 'threads=N'"),
        ("cpu:threads=two", "threads is a number from 1 to 256, not 'two'"),
        ("cpu:threads=0", "threads is a number from 1 to 256, not '0'"),
        ("cpu:batch=-1", "batch is a number from 1 to 4096, not '-1'"),
        ("cpu:batch=5000", "batch is a number from 1 to 4096"),
        ("cpu:threads=1,threads=2", "gives threads twice"),
        ("cpu:int8,fp32", "gives precision twice"),
        ("cpu:bf16", "bf16 is an option of openvino alone"),
        ("cpu:python=/usr/bin/python3", "python is an option of ssh:// devices alone"),
        ("ssh:board/cpu", "give another machine as ssh://user@host:port/cpu"),
        ("ssh://board:65536/cpu", "there is no port 65536"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Device.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "", "-oProxyCommand=touch", "-l", "me@-board", "-me@board", "@board", "a@b@c", "bo ard", "bo'ard", 'bo"ard',
        "board;reboot", "board|x", "board$(x)", "board`x`", "board\n", "bo%hard", "böard", "board:", "board:ssh",
        "board:0", "board:022", "board:-1", "board:٢٢", "fe80::1", "[fe80::1", "[board]", "[::1%eth0 -x]",
    ],
)  # fmt: skip
def test_odd_hosts_are_refused(host: str) -> None:
    with pytest.raises(InputError, match="give another machine as ssh://user@host:port/cpu"):
        Device.parse(f"ssh://{host}/cpu")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("cpu", ("", "")),
        ("ssh://board", ("board", "")),
        ("ssh://me@board:2222", ("me@board", "2222")),
        ("ssh://me@[fe80::1]:22", ("me@fe80::1", "22")),
        ("ssh://[::1]", ("::1", "")),
    ],
)
def test_address(text: str, address: tuple[str, str]) -> None:
    assert Device.parse(text).address == address


def test_slug_is_a_file_name() -> None:
    assert Device().slug == "cpu"
    assert (
        Device.parse("ssh://me@[fe80::1]:22/cpu:threads=2,python=a b").slug
        == "ssh-me-fe80-1-22-cpu-threads=2-python=a-b"
    )


def test_engine_and_provider() -> None:
    assert (Device().engine, Device().provider) == ("onnxruntime", "CPUExecutionProvider")
    assert Device("cuda").provider == "CUDAExecutionProvider"
    assert Device("openvino_ep").engine == "onnxruntime" and Device("openvino").engine == "openvino"
    assert all(Device.parse(target).target == target for target in PROVIDERS)


def test_cpu_time_counts_where_the_calling_thread_computes_alone() -> None:
    alone, together = ["cpu", "cpu:int8", "openvino:bf16", "ssh://board/cpu"], ["cpu:threads=2", "openvino:threads=2"]
    assert {Device.parse(name).quantity for name in alone} == {"cold_cpu_ms"}
    assert {Device.parse(name).quantity for name in [*together, "cuda", "ssh://board/xnnpack"]} == {"cold_wall_ms"}


def test_settings_tell_apart_what_changes_the_numbers() -> None:
    changes = [{"threads": 2}, {"batch": 2}, {"precision": "int8"}, {"target": "cuda"}, {"target": "openvino"}]
    devices = [Device(), *(dataclasses.replace(Device(), **change) for change in changes)]  # type: ignore[arg-type]
    assert len({tuple(device.settings.items()) for device in devices}) == len(devices)
    assert all(isinstance(value, str) for device in devices for value in device.settings.values())
