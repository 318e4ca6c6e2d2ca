"""``nas measure``: the latency of any ONNX file, certified on demand."""

from pathlib import Path
from typing import Annotated

import typer

from latency.certificate import Certificate, beside
from latency.device import Device
from latency.measure import Measured, Noise, Samples
from latency.measure import measure as measure_models
from latency.model_file import read_model, require_form
from nas.cli.app import AnyDevice, Config, Json, app
from nas.cli.console import Terminal, console
from nas.delivery.measured import PROTOCOL
from search_spaces.errors import InputError

Files = Annotated[list[Path] | None, typer.Argument(metavar="MODEL...", help="ONNX files with inputs of fixed sizes.")]


@app.command(epilog="Example:  nas measure model.onnx --device cpu --device cpu:threads=2 --json")
def measure(
    models: Files = None,
    device: AnyDevice = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Leave NAME.certificate.json beside each NAME.onnx.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="CERTIFICATE", help="Measure a certified file again; exit code 1 if it does not hold."),
    ] = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Measure ONNX files together on a device (default: cpu), or on several one after another.

    The latency is that of the first call after other work, at the file's own batch and precision; steady is that of
    repeated calls. Inputs are random.
    """
    if verify:
        if models or device or certify:
            raise InputError("--verify takes file and device from the certificate: leave out all but --json")
        _verify(verify, json)
        return
    if not models:
        raise InputError("name the ONNX files to measure, as in `nas measure model.onnx`")
    devices = list(dict.fromkeys(Device.parse(name) for name in device or ["cpu"]))
    contents = {path: read_model(path) for path in models}
    for one in devices:
        for path, content in contents.items():
            require_form(path, content, one)
    for number, one in enumerate(devices):
        certificates = _measured(one, contents, json)
        for path, certificate in certificates.items() if certify else ():
            certificate.save(beside(path, one, first=number == 0))


def _measured(device: Device, contents: dict[Path, bytes], json: bool) -> dict[Path, Certificate]:
    with Terminal().progress(f"measuring on {device.name}") as progress:
        samples = measure_models(device, {str(p): c for p, c in contents.items()}, PROTOCOL, progress=progress)
    certificates = {
        path: Certificate.of(path.name, content, device, samples, str(path), PROTOCOL)
        for path, content in contents.items()
    }
    if json:
        for path, certificate in certificates.items():
            console.print_json(data={"file": str(path), **certificate.model_dump(mode="json")}, indent=None)
    else:
        _show(device, certificates, Noise.of(samples, device.quantity))
    return certificates


def _show(device: Device, certificates: dict[Path, Certificate], noise: Noise) -> None:
    rows = [
        [
            str(path), f"{c.measured_ms:.4g}", f"{c.measured_ms_low:.4g}-{c.measured_ms_high:.4g}",
            "" if c.steady_ms is None else f"{c.steady_ms:.4g}", str(c.runs),
        ]
        for path, c in certificates.items()
    ]  # fmt: skip
    clock = "CPU time" if "cpu" in device.quantity else "wall time"
    columns = ["file", "measured ms", "90 % interval", "steady ms", "runs"]
    Terminal().table(f"{device.name}, {clock}", columns, rows)
    console.print(noise.text(PROTOCOL), markup=False)


def _verify(path: Path, json: bool) -> None:
    certificate = Certificate.load(path)
    content = certificate.content(path.parent)
    device, protocol = certificate.same_device(), certificate.same_protocol()
    with Terminal().progress(f"measuring on {device.name}") as progress:
        samples: Samples = measure_models(device, {certificate.model: content}, protocol, progress=progress)
    now = Measured.of(samples[device.quantity][certificate.model])
    holds, text = certificate.holds(now)
    if json:
        found = {"measured_ms": now.ms, "measured_ms_low": now.low, "measured_ms_high": now.high}
        row = {"certificate": str(path), "holds": holds, "certified": certificate.model_dump(mode="json"), **found}
        console.print_json(data=row, indent=None)
    else:
        console.print(text, markup=False)
        console.print(Noise.of(samples, device.quantity).text(protocol), markup=False)
        console.print("the certificate holds" if holds else "the certificate does not hold", markup=False)
    if not holds:
        raise typer.Exit(1)
