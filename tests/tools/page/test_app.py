"""The page over HTTP, in this process: every answer, and what it refuses."""

import asyncio
import contextlib
import http.client
import io
import json
import re
import socket
import struct
import threading
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from ccnet_jax import explore, figures
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.tools.page.guard import LOOPBACK
from ccnet_jax.tools.page.networks import Network, Way
from ccnet_jax.tools.page.uploads import TooLarge
from ccnet_jax.weights.inference import attention_map
from tests.miniatures import ORIENTATION, scene

pytestmark = pytest.mark.slow

EXTRA = "pip install -r requirements-dev.txt"
page = pytest.importorskip("ccnet_jax.tools.page.app", reason=f"the page: {EXTRA}", exc_type=ImportError)
pytest.importorskip("httpx2", reason=f"Starlette's test client: {EXTRA}")
testclient = pytest.importorskip("starlette.testclient")

HERE = "http://127.0.0.1:8765"


@pytest.fixture
def client(explorer):
    return testclient.TestClient(page.make_app(explorer, LOOPBACK), HERE, raise_server_exceptions=False)


@pytest.fixture
def shown():
    """The first of the run's own images, as the network sees it: uint8 [48, 96, 3]."""
    return figures.resize(Streets("val")[0]["image"], (48, 96))


def unpacked(answer):
    """(head, planes [n, H, W]) of an answer."""
    assert answer.status_code == 200, answer.text
    (length,) = struct.unpack_from("<I", answer.content)
    head = json.loads(answer.content[4 : 4 + length])
    planes = np.frombuffer(answer.content[4 + length :], np.uint8)
    return head, planes.reshape(-1, head["height"], head["width"])


def chosen(client, **query):
    """A question about the first of the run's own images."""
    return {"image": client.post("/images?own=0").json()["image"], "run": 0, **query}


def as_png(pixels, kind="png", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG of a few bytes that says it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_the_page_loads_nothing_from_elsewhere(client):
    for address, (name, kind) in page.FILES.items():
        answer = client.get(address)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind), name
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
        text = answer.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|integrity=", text), name
        assert not re.search(r"\son\w+=|\sstyle=|javascript:", text), f"{name}: the policy forbids it"


def test_every_file_of_the_page_is_served_and_asked_for(client):
    there = {path.name for path in page._STATIC.iterdir()}
    assert there == {name for name, _ in page.FILES.values()}
    texts = [client.get(address).text for address in page.FILES]
    for name in there - {"index.html"}:
        assert any(f'"{name}"' in text or f'"./{name}"' in text for text in texts), name


def test_it_tells_of_the_networks(client, networks):
    about = client.get("/about").json()
    first, second = about["runs"]
    assert (first["context"], first["loops"], first["choices"]) == ("rcca", 2, [0, 1, 2, 3])
    assert (second["context"], second["loops"], second["choices"]) == ("none", None, [])
    assert [x["name"] for x in first["classes"]] == list(networks[0].model.classes)
    assert first["classes"][0]["colour"] == "#804080"
    assert len(about["own"]) == 24
    assert about["limits"] == {"megabytes": 1, "megapixels": 1, "side": 96}


def test_the_run_s_own_images(client, shown):
    added = client.post("/images?own=0").json()
    assert (added["height"], added["width"], added["own_height"], added["own_width"]) == (48, 96, 96, 192)
    sent = client.get(f"/images?image={added['image']}")
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(sent.content))), shown)
    small = Image.open(io.BytesIO(client.get("/own?index=3").content))
    assert small.size == (192, 96)


def test_a_prediction_is_the_network_s(client, networks, shown):
    head, planes = unpacked(client.post("/predictions", params=chosen(client)))
    assert head["compiled"]
    assert head["seconds"] > 0
    wanted = networks[0].model.predict(shown)
    np.testing.assert_array_equal(planes[0], wanted.label)
    ordered = np.sort(wanted.probabilities, -1)
    for plane, fraction in ((planes[1], ordered[..., -1]), (planes[3], ordered[..., -2])):
        np.testing.assert_allclose(plane / 255, fraction, atol=0.5 / 255 + 1e-6)
    assert (planes[2] != planes[0]).all()
    assert head["areas"] == [(wanted.label == i).mean() for i in range(13)]


@pytest.mark.parametrize("loops", [0, 1, 3])
def test_loops_are_chosen(client, networks, shown, loops):
    _, planes = unpacked(client.post("/predictions", params=chosen(client, loops=loops)))
    model = networks[0].model.with_loops(loops)
    assert model.network.context == ("rcca" if loops else "none")
    np.testing.assert_array_equal(planes[0], model.predict(shown).label)
    assert (planes[0] != networks[0].model.predict(shown).label).any()


def test_scales_and_runs_are_chosen(client, networks, shown, monkeypatch):
    ways = []

    def run(self, image, way):
        ways.append((self.name, way))
        return networks[0].model.predict(image.pixels)

    monkeypatch.setattr(Network, "run", run)
    for query in ({"scales": "several", "loops": 1}, {"scales": "one"}, {"run": 1}):
        unpacked(client.post("/predictions", params=chosen(client) | query))
    assert ways == [("rcca", Way(1, True)), ("rcca", Way()), ("none", Way())]


def test_one_prediction_is_made_at_a_time(explorer):
    two_at_work, met = threading.Barrier(2), []

    def work():
        with contextlib.suppress(threading.BrokenBarrierError):
            two_at_work.wait(0.2)
            met.append(1)
        return page.Response()

    async def ask_twice():
        desk, browser = page._Desk(explorer), Browser()
        return await asyncio.gather(*(desk._with_network(browser, work) for _ in range(2)))

    assert [answer.status_code for answer in asyncio.run(ask_twice())] == [200, 200]
    assert not met


def test_what_nobody_waits_for_is_not_predicted(explorer):
    answer = asyncio.run(page._Desk(explorer)._with_network(Browser(gone=True), lambda: 1 / 0))
    assert answer.status_code == 499


class Browser:
    """What is asked of a request by those who wait for the network."""

    def __init__(self, gone=False):
        self._gone = gone

    async def is_disconnected(self):
        return self._gone


def test_an_answer_is_kept(client, monkeypatch):
    question = chosen(client)
    first = client.post("/predictions", params=question).content
    monkeypatch.setattr(Network, "run", None)
    assert client.post("/predictions", params=question).content == first


def test_what_a_pixel_attends_to(client, networks, shown):
    question = chosen(client, loops=3)
    for point in ((20, 70), (47, 95)):  # the second is answered from what the first computed
        row, column = point
        head, planes = unpacked(client.post("/attention", params=question | {"row": row, "column": column}))
        maps = attention_map(networks[0].model.with_loops(3), shown, point)
        assert planes.shape == maps.shape == (3, 6, 12)
        np.testing.assert_allclose(head["largest"], maps.max((1, 2)), rtol=1e-5)
        wanted = 255 * np.sqrt(maps / maps.max((1, 2), keepdims=True))
        np.testing.assert_allclose(planes, wanted, atol=0.51)


def test_downloads(client, networks, shown):
    question, model = chosen(client), networks[0].model
    answer = client.get("/label.png", params=question)
    assert answer.headers["content-disposition"] == "attachment"
    label = Image.open(io.BytesIO(answer.content))
    assert label.mode == "P"
    ids = np.array(label)
    assert ids.shape == (96, 192)  # as the image's own file
    wanted = model.predict(shown).label
    np.testing.assert_array_equal(ids[::2, ::2], wanted)
    for opacity in (0, 30, 100):
        answer = client.get("/overlay.png", params=question | {"opacity": opacity})
        overlay = np.array(Image.open(io.BytesIO(answer.content)))
        expected = figures.overlay(shown, wanted, model.palette, opacity / 100)
        np.testing.assert_array_equal(overlay, expected)


def test_uploads_are_upright_and_shrunk(client):
    image, _ = scene(0, 60, 200)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    added = client.post("/images", content=as_png(image, "jpeg", exif=exif)).json()
    assert (added["own_height"], added["own_width"]) == (200, 60)
    assert (added["height"], added["width"]) == (96, 29)
    for kind in ("png", "webp", "bmp"):
        assert client.post("/images", content=as_png(image[:, :90], kind)).json()["width"] == 90
    grey = client.post("/images", content=as_png(image[..., 1].copy()))
    assert grey.status_code == 200


BAD_FILES = {
    b"": (400, "the file is empty"),
    b"no image at all": (400, "the file is no PNG, JPEG, WebP or BMP image"),
    b"\x89PNG\r\n\x1a\n": (400, "the file is no PNG"),
    b"\xff\xd8\xff\xe0" + bytes(200): (400, "the file is no PNG"),
    b"RIFF\x10\0\0\0WAVEfmt ": (400, "the file is no PNG"),
    b"GIF89a\x01\0\x01\0": (400, "the file is no PNG"),
    png_header(2000, 501): (413, "2000 x 501 pixels, more than the 1 million"),
    png_header(100_000, 100_000): (413, "100000 x 100000 pixels, more than"),
    png_header(20, 20): (400, "the file is corrupt"),
    bytes(10**6 + 1): (413, "the file has more than 1 MB"),
}


@pytest.mark.parametrize("data", BAD_FILES, ids=range(len(BAD_FILES)))
def test_a_bad_file_is_a_message(client, data):
    answer = client.post("/images", content=data)
    status, words = BAD_FILES[data]
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_no_more_is_read_of_a_body_than_is_allowed(explorer):
    asked = []

    class Endless:
        async def stream(self):
            for _ in range(1000):
                asked.append(1)
                yield bytes(10**5)

    with pytest.raises(TooLarge, match="more than 1 MB"):
        asyncio.run(page._Desk(explorer)._body(Endless()))
    assert len(asked) == 11


def test_uploads_that_are_half_sent_do_not_block_the_page(explorer, monkeypatch):
    """The real server: 300 senders that stop half-way, and somebody who looks at the page."""
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(page, "BODY_SECONDS", 1.0)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(explore.server_settings(explorer, LOOPBACK))
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = listening.getsockname()
    head = (
        f"POST /images HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\nContent-Length: 900\r\n\r\nhalf".encode()
    )
    senders = [socket.create_connection(address) for _ in range(300)]
    try:
        for sender in senders:
            sender.sendall(head)
        with contextlib.closing(http.client.HTTPConnection(*address, timeout=10)) as visitor:
            visitor.request("GET", "/about")
            assert visitor.getresponse().status == 200
        answers = []
        for sender in senders:
            sender.settimeout(20)
            answers.append(sender.recv(12)[9:])
        assert set(answers) == {b"408", b"503"}
        assert answers.count(b"408") == page.MOST_SENDING
    finally:
        for sender in senders:
            sender.close()
        server.should_exit = True
        thread.join(20)


BAD_QUESTIONS = [
    ("post", "/predictions", {"image": "gone"}, 404, "this image is not kept here any more"),
    ("post", "/predictions", {"image": "../../etc/passwd"}, 404, "this image is not kept here"),
    ("post", "/predictions", {"run": 7}, 404, "there is no run number 7"),
    ("post", "/predictions", {"run": "-1"}, 400, "run must be a whole number"),
    ("post", "/predictions", {"run": "runs/demo"}, 400, "run must be a whole number"),
    ("post", "/predictions", {"loops": 4}, 400, "rcca runs with 0, 1, 2, 3 loops, not 4"),
    ("post", "/predictions", {"loops": "٢"}, 400, "loops must be a whole number"),
    ("post", "/predictions", {"loops": 1, "run": 1}, 400, "loops are RCCA's, and none offers none"),
    ("post", "/predictions", {"scales": "all"}, 400, "scales must be one or several"),
    ("post", "/attention", {"row": 48, "column": 0}, 400, "48 rows and 96 columns, and no pixel"),
    ("post", "/attention", {"row": 1}, 400, "column must be a whole number"),
    ("post", "/attention", {"row": 1, "column": 1, "loops": 0}, 400, "without a loop"),
    ("post", "/attention", {"row": 1, "column": 1, "run": 1}, 400, "attention is shown of networks"),
    ("get", "/overlay.png", {"opacity": 101}, 400, "opacity must be a whole number from 0 to 100"),
    ("get", "/own", {"index": 24}, 404, "no image number 24"),
    ("post", "/images", {"own": "9" * 30}, 400, "own must be a whole number"),
    ("get", "/predictions", {}, 405, "there is nothing at this address"),
    ("get", "/../pyproject.toml", {}, 404, "there is nothing at this address"),
    ("get", "/static/%2e%2e/app.py", {}, 404, "there is nothing at this address"),
]


@pytest.mark.parametrize(("method", "address", "query", "status", "words"), BAD_QUESTIONS)
def test_a_bad_question_is_a_message(client, method, address, query, status, words):
    answer = getattr(client, method)(address, params=chosen(client) | query)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


MORE_THAN_A_HOST = (
    *("x@127.0.0.1", "x@127.0.0.1:8765", "x:y@localhost", "127.0.0.1/a", "127.0.0.1?a", "127.0.0.1#a"),
    *("127.0.0.1:port", "127.0.0.1:0", "127.0.0.1:99999", "evil.example@127.0.0.1"),
)


def test_only_the_page_itself_may_ask(client, explorer):
    for host in ("127.0.0.1:8765", "localhost:9999", "[::1]:8765", "LOCALHOST"):
        assert client.get("/about", headers={"host": host}).status_code == 200
    for host in (
        "evil.example",
        "127.0.0.1.evil.example:8765",
        "evil.example:127.0.0.1",
        "[",
        "",
        *MORE_THAN_A_HOST,
    ):
        answer = client.get("/about", headers={"host": host})
        assert answer.status_code == 403
        assert "this page answers at 127.0.0.1 and ::1 and localhost only" in answer.json()["error"]
        assert "content-security-policy" in answer.headers
    assert client.post("/images?own=0", headers={"origin": HERE}).status_code == 200
    for origin in ("http://evil.example", "null", "http://[", "", "http://127.0.0.1:9999"):
        answer = client.post("/images?own=0", headers={"origin": origin})
        assert answer.status_code == 403
        assert "another site's page" in answer.json()["error"]
    everybody = testclient.TestClient(page.make_app(explorer, None), "http://some.machine:80")
    assert everybody.get("/about").status_code == 200


def test_too_many_at_once_are_refused(client, monkeypatch):
    question = chosen(client)
    monkeypatch.setattr(page, "MOST_WAITING", 0)
    answer = client.post("/predictions", params=question)
    assert answer.status_code == 503
    assert "predictions are waiting already; try again" in answer.json()["error"]


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 400, "needs more memory"),
        (MemoryError(), 400, "send a smaller one, or start the program with a smaller --side"),
        (ZeroDivisionError("secret"), 500, "the program failed (ZeroDivisionError); its terminal says how"),
    ],
)
def test_a_fault_is_a_message(client, networks, monkeypatch, fault, status, words):
    def fails(*_):
        raise fault

    question = chosen(client)
    monkeypatch.setattr(networks[0], "run", fails)
    answer = client.post("/predictions", params=question)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert "secret" not in answer.text
    monkeypatch.undo()
    assert client.post("/predictions", params=question).status_code == 200  # it works on
