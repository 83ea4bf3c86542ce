"""The doctor's checks, and the command that prints them."""

from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner
from s3_server import S3Server, isolate

from egoexo_tools.cli import main
from egoexo_tools.doctor import (
    State,
    check_disk,
    check_gpu,
    check_licences,
    check_packages,
    check_pictures,
    check_proxy,
    check_weights,
)


def run_doctor(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["doctor", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_every_check_passes_with_the_right_key(guarded_s3: str, tmp_path: Path) -> None:
    code, output = run_doctor(str(tmp_path), "--source", guarded_s3)
    assert code == 0, output
    assert f"{guarded_s3} can be read" in output and "BROKEN" not in output
    assert "from env" in output and "libavcodec" in output


def test_a_wrong_key_breaks_the_bucket_and_a_missing_one_the_credentials(
    guarded_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    code, output = run_doctor("--source", guarded_s3)
    assert code == 1 and "BROKEN  bucket        invalid key: " in output
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, output = run_doctor("--source", guarded_s3)
    assert code == 1 and "ok      network" in output and "BROKEN  credentials" in output
    assert "1 broken" in output
    assert run_doctor("--source", guarded_s3, "--offline")[0] == 0


@pytest.mark.slow
def test_a_proxy_that_does_not_answer_breaks_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolate(monkeypatch, S3Server(1, tmp_path).environment(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@127.0.0.1:1")
    code, output = run_doctor("--source", "s3://bucket/v2")
    assert code == 1 and "BROKEN  network       proxy: " in output and "secret" not in output
    assert "note    proxy         HTTP_PROXY is 127.0.0.1:1" in output
    monkeypatch.delenv("HTTP_PROXY")
    assert check_proxy().detail == "none set"


def test_damaged_weights_are_described(tmp_path: Path) -> None:
    cases = {
        "page.pt": (b"<!DOCTYPE html><html>" + bytes(20_000), "is a web page"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "short.pt": (b"PK\x03\x04", "has only 4 bytes"),
        "cut.pt": (b"PK\x03\x04" + bytes(20_000), "is cut off"),
        "other.pt": (b"hello" * 5000, "is not a PyTorch checkpoint"),
    }
    for name, (content, problem) in cases.items():
        (tmp_path / name).write_bytes(content)
        check = check_weights(tmp_path / name)
        assert check.state is State.BROKEN and problem in check.detail
    assert "No such file" in check_weights(tmp_path / "none.pt").detail
    (tmp_path / "old.pth").write_bytes(b"\x80\x02" + bytes(20_000))
    assert check_weights(tmp_path / "old.pth").state is State.OK


def test_packages_and_disk_pass_on_this_machine(tmp_path: Path) -> None:
    assert check_packages().state is State.OK
    assert check_disk(tmp_path / "not" / "there yet").state in {State.OK, State.NOTE}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("libGL.so.1: cannot open shared object file", "library libGL.so.1 is missing"),
        ("No module named 'cv2'", "--force-reinstall opencv-python-headless"),
    ],
)
def test_a_missing_system_library_is_named_with_the_solution(
    monkeypatch: pytest.MonkeyPatch, error: str, words: str
) -> None:
    def fail(name: str) -> None:
        raise ImportError(error)

    monkeypatch.setattr("importlib.import_module", fail)
    check = check_pictures()
    assert check.state is State.BROKEN
    assert words in check.detail and "opencv-python-headless" in check.detail


def test_an_installed_package_under_the_agpl_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "ultralytics" or not is_installed:
            raise metadata.PackageNotFoundError(name)
        return "8.4.190"

    monkeypatch.setattr("egoexo_tools.doctor.metadata.version", version)
    is_installed = True
    check = check_licences()
    assert check.state is State.NOTE
    assert "ultralytics 8.4.190 (group `fastsam`) is AGPL-3.0" in check.detail
    is_installed = False
    assert check_licences().state is State.OK


@pytest.mark.parametrize(
    ("driver", "built", "words"),
    [
        (True, None, "built without CUDA, but there is an NVIDIA GPU; `pip install --force"),
        (False, None, "built without CUDA; the CPU is used"),
        (True, "13.0", "no GPU is visible; the CPU is used"),
    ],
)
def test_a_torch_without_cuda_is_noted(
    driver: bool, built: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version").touch()
    path = tmp_path / ("version" if driver else "missing")
    monkeypatch.setattr("egoexo_tools.doctor.NVIDIA_DRIVER", path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", built)
    check = check_gpu()
    assert check.state is State.NOTE and words in check.detail
