"""Devices have names and fingerprints."""

import os
import re

import pytest

from latency.device import DEVICES, Device
from latency.runner import cpu_model
from search_spaces.errors import InputError


def test_parse() -> None:
    assert all(Device.parse(name) is device and device.name == name for name, device in DEVICES.items())
    with pytest.raises(InputError, match="unknown device 'cpi'; did you mean 'cpu'"):
        Device.parse("cpi")


def test_fingerprint_tells_apart_what_changes_the_numbers() -> None:
    device = Device("one")
    others = [Device("other"), Device("one", provider="OtherProvider"), Device("one", threads=2)]
    assert device.fingerprint() == Device("one").fingerprint()
    assert all(other.fingerprint() != device.fingerprint() for other in others)
    facts = device.fingerprint()
    assert facts["cores"] == str(os.cpu_count()) and facts["cpu"] == cpu_model() != ""
    assert re.fullmatch(r"onnxruntime \d+\.\d+\.\d+.*", facts["runtime"])
    assert all(isinstance(value, str) for value in facts.values())
