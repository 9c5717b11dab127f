"""A run that is served: what it answers is what `read_image` says, whatever came before."""

import gc
import json
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch

from cli.serve import serve as command
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import JudgeOptions, ReadOptions
from cxrdali.predict.reading import read_image
from cxrdali.predict.rendering import Rendering
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.serve.reader import UPLOAD, Reader
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cli import cli
from tests.cxrdali.serve.running import ask, connected, form, heard_back, post, running
from tests.dicom_files import dicom
from tests.heard import heard
from tests.image_files import part

CPU = JudgeOptions(device="cpu", thresholds="0.5")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    settings = settings_of(stage=1, size=64, batch=8, epochs=1, arch="test_byobnet", pretrained=False, device="cpu")
    train(settings, dataset, out)
    return Run.open(out)


@pytest.fixture(scope="module")
def files(release_folder):
    return [path.read_bytes() for path in sorted((release_folder / "files").rglob("*.jpg"))[:25]]


@pytest.fixture(scope="module")
def reader(run):
    with Reader(run, CPU, seconds=20) as reader:
        yield reader


@pytest.fixture
def port(reader):
    with running(reader) as port:
        yield port


def test_two_hundred_requests_of_eight_clients_are_read_as_by_read_image_and_memory_stays(run, files, port):
    judge = Judge.of([run], CPU)
    with Rendering.of(run) as rendering:
        wanted = [
            json.loads(json.dumps(read_image(judge, None, rendering.render(UPLOAD, data), ReadOptions()).as_json()))
            for data in files
        ]

    def post_one(place: int):
        body, kind = form(files[place % len(files)]) if place % 2 else (files[place % len(files)], "image/jpeg")
        status, _, answer = ask(port, "POST", "/predict", body, content_type=kind)
        return status, json.loads(answer)

    def all_right(places: range) -> None:
        with ThreadPoolExecutor(8) as clients:
            for place, found in zip(places, clients.map(post_one, places), strict=True):
                assert found == (200, wanted[place % len(files)])

    all_right(range(50))
    gc.collect()
    before = psutil.Process().memory_info().rss
    all_right(range(50, 200))
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 20_000_000
    assert len({json.dumps(each["findings"]) for each in wanted}) > 10  # these are different images


def test_a_page_is_one_file_without_a_script_and_its_numbers_are_those_of_the_json(files, port):
    page = ask(port, "POST", "/read", files[0])[2].decode()
    reading = json.loads(ask(port, "POST", "/predict", files[0])[2])
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert page.count("data:image/") >= 2  # the image and a heat map
    assert reading["run"] in page and all(each["finding"] in page for each in reading["findings"])


def test_the_answer_is_what_openapi_says(files, port):
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(ask(port, "GET", "/openapi.json")[2])
    answers = document["paths"]["/predict"]["post"]["responses"]
    reading = json.loads(ask(port, "POST", "/predict", files[0])[2])
    schema = answers["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(reading, schema)
    assert set(schema["properties"]) == set(reading)
    assert set(schema["properties"]["findings"]["items"]["properties"]) == set(reading["findings"][0])
    refused = ask(port, "POST", "/predict", b"no image")
    jsonschema.validate(json.loads(refused[2]), answers[str(refused[0])]["content"]["application/json"]["schema"])
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document)


def test_a_dicom_full_of_names_is_read_and_none_is_said(port):
    shades = np.linspace(0, 4095, 300 * 200).reshape(300, 200).astype(np.uint16)
    names = {
        "PatientName": "DOE^JANE", "PatientBirthDate": "19610203", "StudyDate": "20201112", "InstitutionName": "ST DOE",
        "ReferringPhysicianName": "DOE^JOHN", "StudyDescription": "DOE", "PatientComments": "DOE", "ViewPosition": "PA",
    }  # fmt: skip
    lines = []
    with heard(lines):
        status, _, answer = ask(port, "POST", "/predict", dicom(shades, **names))
        _, _, page = ask(port, "POST", "/read", dicom(shades, **names))
    image = json.loads(answer)["images"][0]
    assert (status, image["height"], image["width"], image["view_position"]) == (200, 300, 200, "PA")
    for text in (answer.decode(), page.decode(), *lines):
        assert not re.search("DOE|19610203|20201112", text)


def bomb(width: int, height: int) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(50_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND")


HOSTILE = {
    "truncated": lambda jpeg: jpeg[: len(jpeg) // 2],
    "header alone": lambda jpeg: jpeg[:20],
    "two gigapixels": lambda jpeg: bomb(50_000, 40_000),
    "deflate bomb": lambda jpeg: bomb(64, 64),
    "text": lambda jpeg: b"subject_id,study_id\n1,2\n",
    "noise": lambda jpeg: np.random.default_rng(1).bytes(100_000),
    "DICOM without pixels": lambda jpeg: bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\x7f",
    "DICOM of noise": lambda jpeg: bytes(128) + b"DICM" + np.random.default_rng(2).bytes(100_000),
    "one byte": lambda jpeg: b"\xff",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_with_its_reason_and_the_next_is_read(files, port, kind):
    body, content_type = form(HOSTILE[kind](files[0]), name="DOE^JANE.dcm")
    status, _, answer = ask(port, "POST", "/predict", body, content_type=content_type)
    words = json.loads(answer)["error"]
    assert status == 422 and words.startswith("This file cannot be read as an image: ") and "DOE" not in words
    assert ask(port, "POST", "/predict", files[1])[0] == 200


def test_a_decoder_that_dies_is_replaced_and_holds_no_connection_open(files, port):
    def children() -> list:
        """Those that were forked for decoding: other tests' children have ended, or run something else."""
        own = psutil.Process()
        alive = [each for each in own.children() if each.status() != psutil.STATUS_ZOMBIE]
        return [each for each in alive if each.cmdline() == own.cmdline()]

    with connected(port) as kept, connected(port) as closed:
        kept.sendall(post("/predict", f"Content-Length: {len(files[0])}")[:-2])  # open while the new process begins
        before = {each.pid for each in children()}
        for each in children():
            each.kill()
        closed.sendall(post("/predict", f"Content-Length: {len(files[1])}", "Connection: close") + files[1])
        began = time.monotonic()
        assert heard_back(closed).startswith(b"HTTP/1.1 200 ")  # and its end: the new process has not kept it
        assert time.monotonic() - began < 10 and not before & {each.pid for each in children()} and children()
        kept.sendall(b"Connection: close\r\n\r\n" + files[0])
        assert heard_back(kept).startswith(b"HTTP/1.1 200 ")


def test_a_full_gpu_and_a_network_that_gives_nan_are_said_and_the_server_lives(run, files, monkeypatch):
    with Reader(run, CPU, seconds=20) as reader, running(reader) as port:
        network = reader.judge.model

        def full(*_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        for fails, words in [(full, "GPU is full"), (lambda x: network.forward(x) * float("nan"), "NaN")]:
            monkeypatch.setattr(network, "forward", fails) if fails is full else None
            hook = None if fails is full else network.register_forward_hook(lambda *given: given[-1] * float("nan"))
            status, _, answer = ask(port, "POST", "/predict", files[0])
            assert status == 500 and words in json.loads(answer)["error"]
            monkeypatch.undo()
            if hook:
                hook.remove()
            assert ask(port, "POST", "/predict", files[0])[0] == 200


def test_what_a_refusal_of_rules_advises_can_be_given():
    assert "--allow-other-run" in [word for option in command.params for word in option.opts]


def test_what_serve_needs_is_named_where_it_is_missing(run, monkeypatch):
    from cxrdali.serve.options import ServeOptions
    from cxrdali.serve.server import serve

    monkeypatch.setitem(sys.modules, "python_multipart", None)
    with pytest.raises(UserError, match=r"pip install 'cxrdali\[serve\]'$"):
        serve(run, ServeOptions(port=0), CPU)


# ---------------------------------------------------------------- the command


def started(run, *more) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen(
        cli.command("serve", run.path, "--port", 0, "--device", "cpu", *more),
        env=cli.environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = ""
    while not (found := re.search(r"^http://127\.0\.0\.1:(\d+)/ ", said, re.M)):
        assert process.poll() is None, said
        said += process.stdout.readline()
    return process, int(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_in_the_middle_of_everything(run, files, number):
    process, port = started(run)
    try:
        assert ask(port, "POST", "/predict", files[0])[0] == 200
        with connected(port) as stalled, ThreadPoolExecutor(4) as clients:
            stalled.sendall(post("/predict", "Content-Length: 100") + b"abc")
            for place in range(4):
                clients.submit(ask, port, "POST", "/predict", files[place])
            time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(10) == -number and time.monotonic() - began < 1.5
        assert not psutil.wait_procs(children, timeout=3)[1]
        assert "Traceback" not in process.stdout.read()
        with socket.create_server(("127.0.0.1", port)):  # nobody holds it
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_port_in_use_is_one_line(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as door:
        taken = door.getsockname()[1]
        done = cli.run("serve", run.path, "--port", taken, "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: 127.0.0.1 port {taken}: Address already in use; another program listens")
    assert not list(tmp_path.iterdir())
