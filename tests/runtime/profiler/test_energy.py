"""Energy meters on fake trees of /sys and a fake NVML: read rightly, or said to be absent."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from ttt_runtime.profiler.energy import EnergyMeter, Found, Rail, find_meters

NO_NVML = "a_module_that_nobody_installs"


def put(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": 9_000_000,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 10_000_000,
    "sys/class/powercap/intel-rapl:0:0/name": "core",  # a part of package-0: not counted twice
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 1,
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 10_000_000,
}
ORIN = {
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": 5000,
    "sys/class/hwmon/hwmon1/curr1_input": 800,
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": 4000,
    "sys/class/hwmon/hwmon1/curr2_input": 250,
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon0/name": "acpitz",
}
NANO = {
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": 2500,
}


def test_a_machine_without_meters_says_so_and_claims_nothing(tmp_path: Path) -> None:
    found = find_meters(tmp_path, NO_NVML)
    assert found.counters == []
    assert [reason.split(":")[0] for reason in found.absent] == ["rapl", "jetson", "nvml"]
    with EnergyMeter(found) as meter:
        pass
    assert meter.document(3, 2.0) == {"available": False, "rails": [], "absent": found.absent}


def test_rapl_packages_are_summed_over_the_wrap_of_their_counter(tmp_path: Path) -> None:
    put(tmp_path, RAPL)
    found = find_meters(tmp_path, NO_NVML)
    (package,) = found.counters
    assert (package.name, package.source) == ("package-0 (intel-rapl:0)", "rapl")
    with EnergyMeter(found) as meter:
        counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
        counter.write_text("9900000")
        assert package.joules() == pytest.approx(0.9)
        counter.write_text("500000")  # 0.1 J up to the wrap, 0.5 J after it
    document = meter.document(2, 3.0)
    (rail,) = document["rails"]
    assert document["available"]
    assert rail["joules"] == pytest.approx(1.5)
    assert rail["joules_a_turn"] == pytest.approx(0.75)
    assert rail["joules_a_second_of_speech"] == pytest.approx(0.5)
    assert rail["watts"] == pytest.approx(1.5 / meter.seconds[package.name], rel=1e-3)


def test_rapl_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, RAPL)
    read = Path.read_text

    def guarded(self: Path, *args: object, **kwargs: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", guarded)
    found = find_meters(tmp_path, NO_NVML)
    assert found.counters == []
    assert (
        "intel-rapl:0 cannot be read (permission denied; reading it needs root)"
        in (found.absent[0])
    )


@pytest.mark.parametrize(
    ("files", "watts"),
    [(ORIN, {"VDD_IN": 4.0, "VDD_CPU_GPU_CV": 1.0}), (NANO, {"POM_5V_IN": 2.5})],
    ids=["hwmon of JetPack 5 and 6", "iio of JetPack 4"],
)
def test_jetson_rails(tmp_path: Path, files: dict[str, object], watts: dict[str, float]) -> None:
    put(tmp_path, files)
    found = find_meters(tmp_path, NO_NVML)
    assert {rail.name: rail.watts() for rail in found.counters} == pytest.approx(watts)  # type: ignore[attr-defined]
    assert not any(reason.startswith("jetson") for reason in found.absent)
    with EnergyMeter(found, sample_seconds=0.005) as meter:
        meter._stop.wait(0.2)
    for rail in meter.document(1, 1.0)["rails"]:
        assert rail["watts"] == pytest.approx(watts[rail["name"]], rel=0.2)


def test_a_rail_that_fails_in_the_end_is_absent_and_not_zero(tmp_path: Path) -> None:
    put(tmp_path, ORIN)
    found = find_meters(tmp_path, NO_NVML)
    with EnergyMeter(found) as meter:
        (tmp_path / "sys/class/hwmon/hwmon1/curr2_input").unlink()
    document = meter.document(1, 1.0)
    assert [rail["name"] for rail in document["rails"]] == ["VDD_IN"]
    assert any("VDD_CPU_GPU_CV stopped telling" in reason for reason in document["absent"])


def test_power_between_samples_is_a_trapeze() -> None:
    samples = iter([(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)])
    now = [0.0]

    def watts() -> float:
        now[0], value = next(samples)
        return value

    class Clock:
        def __call__(self) -> float:
            return times.pop(0)

    times = [0.0, 1.0, 3.0]
    rail = Rail("r", watts, "jetson", clock=Clock())
    assert [rail.joules() for _ in range(3)] == [0.0, 3.0, 11.0]


def fake_nvml(*, total_energy: bool, devices: int = 1) -> types.ModuleType:
    module = types.ModuleType("fake_nvml")

    class NVMLError(Exception):
        pass

    counted = iter(range(1000, 100_000, 500))

    def energy(handle: int) -> int:
        if not total_energy:
            raise NVMLError("Not Supported")
        return next(counted)

    module.NVMLError = NVMLError  # type: ignore[attr-defined]
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetCount = lambda: devices  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda i: i  # type: ignore[attr-defined]
    module.nvmlDeviceGetName = lambda h: b"NVIDIA Toy"  # type: ignore[attr-defined]
    module.nvmlDeviceGetTotalEnergyConsumption = energy  # type: ignore[attr-defined]
    module.nvmlDeviceGetPowerUsage = lambda h: 70_000  # type: ignore[attr-defined]
    return module


def test_nvml_counts_millijoules_or_tells_its_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fake_nvml", fake_nvml(total_energy=True))
    (device,) = find_meters(tmp_path, "fake_nvml").counters
    assert (device.name, device.source) == ("NVIDIA Toy (0)", "nvml")
    assert device.joules() - device.joules() == -0.5
    monkeypatch.setitem(sys.modules, "fake_nvml", fake_nvml(total_energy=False))
    (rail,) = find_meters(tmp_path, "fake_nvml").counters
    assert isinstance(rail, Rail)
    assert rail.watts() == 70.0
    monkeypatch.setitem(sys.modules, "fake_nvml", fake_nvml(total_energy=True, devices=0))
    assert find_meters(tmp_path, "fake_nvml").absent[-1] == "nvml: no GPU"


def test_an_nvml_without_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_nvml(total_energy=True)

    def init() -> None:
        raise module.NVMLError("Driver Not Loaded")

    module.nvmlInit = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_nvml", module)
    assert find_meters(tmp_path, "fake_nvml").absent[-1] == "nvml: Driver Not Loaded"


def test_a_counter_is_a_counter() -> None:
    assert Found() == Found([], [])
